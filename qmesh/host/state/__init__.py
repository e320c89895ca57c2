"""The state directory: what this machine remembers between commands.

directory  the state as one object: files, documents, lock, keys
documents  what each document holds
key_files  keys: read, made, taken into use
lock       the one lock of a machine's qmesh
"""
