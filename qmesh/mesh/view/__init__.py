"""What may be shown of a cluster to those who look and do not touch: the readers, and the page.

cluster_view  what they see, field by field: no key, endpoint, invitation or secret has a field in it
builder       what the agent knows at one moment -> that
answers       of what commands print as JSON, what readers see
questions     what readers may ask, who they are, and how an answer begins
"""
