"""What decides: pure, typed, without a look at the machine."""
