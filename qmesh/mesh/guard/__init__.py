"""The worker guard as an nftables ruleset, and back.

`render_table` writes the table just as `nft -s list table` prints it, so `parse_table` need not understand
rules: it reads the parameters and compares with what it would write itself. Anything else with the table's
name is an `AlteredGuard`. `render_held_table` writes it a second time, for a table that belongs to a process:
a flush by another program does not remove that one.

tables  the names of qmesh's tables
render  guard -> table
scripts guard -> nftables commands that load, change or remove it
parse   listing -> guard
access  whether the guard lets an address in
"""
