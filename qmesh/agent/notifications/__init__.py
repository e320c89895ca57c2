"""The agent's part that tells its operator what has changed, and the command's that says whom.

settings  what `qmesh set --notify` changes and shows
notifier  look, decide, keep, and have it delivered
delivery  one message to one receiver, in a thread that ends with it
"""
