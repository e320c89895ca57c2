"""What machines say to each other, and what goes into files that people carry."""
