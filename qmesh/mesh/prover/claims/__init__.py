"""What is to be proved of a machine, as conditions on packets that must not come about.

claim_list     the claims in words, and all their cases
case           a claim about packets of a family, which have gone their way
ways           the three ways through the machine: into it, through it, out of it
packet_terms   the guard's words about a packet
arrival_cases  what comes to this machine
passage_cases  what it passes on
sent_cases     what it sends
other_cases    what is none of the guard's business, on all three ways
"""
