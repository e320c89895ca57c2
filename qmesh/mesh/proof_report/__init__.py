"""A page about a proof: a stranger can read it, and its machine verify it.

rule_parts   the rules that were asked, part by part, and their hash
asked_rules  what a report says of them
nft_hash     the hash of what nft lists, which anybody can compute
report_facts what a page says, as values
report_page  the page as text, and what it says out of it
report_keys  the machine's key for pages, and signatures in the format of `ssh-keygen -Y`
differences  what is not any more as a report says
verification what becomes of a report on its machine
"""
