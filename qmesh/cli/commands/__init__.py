"""One module a command: its options, its examples, and its answer in words."""
