"""Questions of readers: users who are not root, and members of the group that `qmesh set --readers` names.

ask            a command that such a user types asks this machine's agent
shared_answer  one answer for all who ask within some seconds
answers        the agent's answers, by question
service        the agent's part: the socket, as the settings and the group are now
"""
