"""Facts of machines: gathered on each, told by members, kept by the control node.

gatherer  what this machine has and runs, from one look to the next
teller    what a member tells with its question for the membership, and when
keeper    what members told the control node
bench     `status --bench`
"""
