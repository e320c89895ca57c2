"""What the page shows, and to whom: a view of the cluster made small, what changed, answer times kept.

picture  a view -> what the browser is sent; each machine's workers are columns, not objects
changes  two pictures -> what became different, in words
history  the latest answer times, for plots
access   which requests are answered
"""
