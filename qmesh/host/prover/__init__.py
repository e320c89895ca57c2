"""Rules for the prover, as the kernel has them.

set_elements   what sets and maps have in them
ruleset_file   all rules of this machine, or of a file as the kernel would have it
nft_json       what `nft -j list ruleset` prints
timed_answers  a process of its own that has so long
"""
