"""The surgical edit of a config's keys: every byte that is not a wanted key's stays.

Three rules keep it safe. An edit only exchanges spans that the parser marked. What is written
in a way that has no such span is refused. And the result is parsed again: it has to hold the
wanted value and, outside of it, the same nodes in the same order, or nothing is returned.

settings a key and what it should hold
layout   lines, indentation, exchanged spans
values   a plain value in the place of another
keys     a key that is missing, or has nothing behind it
lists    a list, entry by entry
config   config + settings -> config, checked
"""
