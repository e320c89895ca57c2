"""Enrolment and membership over HTTP, inside the tunnel only.

Who asks is known by the tunnel address, for which WireGuard vouches. Bodies, times and each peer's
connections are bounded.

messages  what both ends agree on
service   the control node's end
client    a member's end
"""
