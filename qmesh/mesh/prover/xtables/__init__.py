"""What iptables' matches and targets do, to all packets at once.

xtables_steps   all of them by name and revision; those about connections and ports
xtables_fields  those about one field
xtables_facts   those about what is no field: owners, whose an address is, options, the way back
xtables_translations  those that give packets another target
"""
