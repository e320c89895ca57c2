"""What acts: every line here may touch the machine, none takes a decision."""
