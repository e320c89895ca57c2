"""The membership between machines: the control node's service, and a member's questions to it.

server       the service's process and port, begun and ended as the machine's role is
api          what members are answered
unanswered   machines that have not taken the answer to their redemption yet
retirements  how who has a key that is no machine's any more is told
poll         a member's questions for a newer membership
"""
