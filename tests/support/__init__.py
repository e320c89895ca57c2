"""What tests have in common: no module of it is a test, and no test imports another test's module."""
