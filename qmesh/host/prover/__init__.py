"""Rules for the prover, as the kernel has them.

set_elements  what sets and maps have in them
ruleset_file  a file with rules, read as the kernel would have it
"""
