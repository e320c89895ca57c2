"""What is logged: events with a code and a level, as lines in a file or as entries of systemd's journal."""
