"""A mesh and its machines in the words of other tools: facts first, then their text."""
