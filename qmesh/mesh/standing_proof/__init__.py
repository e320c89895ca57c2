"""What the agent knows of its claims by proving them again and again.

record    what became of each claim the last time, in words
schedule  when the next proof is due, so that all of them take little
"""
