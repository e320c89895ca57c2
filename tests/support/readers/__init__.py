"""Everything that reads octets or text from elsewhere, and inputs to try it with.

mutate    valid examples made nearly valid, by a seed
images    registries whose rows hold anything
table     the readers, with valid examples
outcome   what became of an input
"""
