"""What this machine has and runs, as its kernel and its files say."""
