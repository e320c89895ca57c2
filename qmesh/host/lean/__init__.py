"""What loads next to nothing: of this the process that holds the guard is made, and all else uses it too.

A module here, and whatever it imports, has no more of the standard library than C modules, `os` and `ctypes`:
`socket`, `re`, `typing` and `contextlib` alone would take as much memory as all that the process does
(docs/decisions/0094-a-holder-of-a-few-megabytes.md). What only type checkers need is imported for them.
"""
