"""What each command does, in a module of its name: what was typed goes in, its answer comes out."""
