"""Enrolment and membership over HTTP, inside the tunnel only.

Who asks is known by the tunnel address, for which WireGuard vouches. Bodies, times and what is under way for
each peer are bounded.

messages     what both ends agree on
connections  those of the service, and what is under way for each peer
service      the control node's end: what is answered
client       a member's end
"""
