"""The page as a browser gets it: its files, and the server that sends them and what is new."""
