"""What other programs' rules do to the packets that the mesh needs: rulesets in, obstacles out.

attributes, expressions  what the kernel tells of a rule
registers, packet_fields bytes of which each bit is known or not: headers, and what rules load
loads, kernel_rules      expressions that load something of a packet; a rule, built to be asked
xtables                  those of iptables, and the tables of iptables-legacy
rules                    tables, chains and rules as values, and a packet on its way through them
walk                     one packet against all tables: passed, dropped, or not understood
lookups                  what is asked of sets, and answered
packets                  the packets that must pass, concretely
rulesets                 all that was read, as tables
obstacles                all together
firewall_fixes           the command of its firewall that fixes each
other_hooks              what takes packets besides rules: IPsec, XDP, filters of tc, a mark, units' filters
saved_rules              tables of qmesh in files with rules
"""
