"""The agent: the process that keeps its machine as the mesh wants it, and on the control node serves."""
