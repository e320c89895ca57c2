"""Whether any packet gets where none should, by all rules of a machine: proved, or refuted by a packet.

gates, solver            conditions as wires, and the SAT solver that is asked about them
traveller                a packet of which nothing need be known, and what its fields are
set_contents, rulesets   what was read: sets, tables, chains, rules
rule_run                 one rule over all packets at once: registers, doubts, what became of which
packet_facts, way_back   what rules ask beside a packet's fields: options, whose an address is, the way back
field_loads, translation_steps, expression_steps, xtables/  what each expression does
walk                     all packets on their way through the chains of a hook
claim_codes, claims/     what is to be proved, as conditions on packets that must not come about
ordinary_packets         which packets may be shown
examples, packet_text    one that is shown, and in words
decide, claim_answers    proved, refuted or neither; by which rules
"""
