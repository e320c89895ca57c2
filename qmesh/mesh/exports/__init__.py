"""A mesh and its machines in the formats of other tools: facts first, then their text."""
