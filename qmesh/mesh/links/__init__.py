"""What the tunnels to other machines carry: which are silent, and which come from two places at once."""
