"""A copy of this machine in namespaces without names, what is fired at it, and what becomes of that.

Nothing here may run in the namespace of the machine itself: `namespaces.py` sees to that.
"""
