"""What a machine's operator is told without asking: what is a change, when it is told, and in which words.

change      one thing that happened, began or ended
tracker     what is seen, look by look -> changes: what lasts is told once, and what flaps ever more rarely
guard       how often other programs have changed the guard -> changes
outbox      the changes that are still to be delivered, to each receiver; bounded
targets     receivers, as they are typed, and how they are shown: never with what is secret of a URL
text        changes as text for people
formats     changes as the request that a receiver takes
record      what is kept over the agent's restarts
"""
