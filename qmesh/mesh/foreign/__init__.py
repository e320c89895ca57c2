"""What other programs' rules do to the packets that the mesh needs: rulesets in, obstacles out.

native, xtables   read a ruleset (nft's JSON, iptables-save's text) into the values of `rules`
packets           the packets that must pass, concretely
rules             one packet against a ruleset: passed, dropped, or not understood
obstacles         both together, and the command that fixes each
"""
