"""Enrolment and membership over HTTP, inside the tunnel only.

Who asks is known by the tunnel address, for which WireGuard vouches. Bodies, times and what is under way for
each peer are bounded.

messages      what both ends agree on
exchange      a request, its answer, and the peer whose they are
http_protocol one connection: what arrives, and what is sent
connections   those of the service, and what is under way for each peer
handlers      what the service asks of the agent
dispatch      what each request is answered with
server        the control node's end, in a thread of its own
collection    how `check --all` asks the control node's agent for all findings
client        a member's end
packet_probe  which packets pass on the way to the service
"""
