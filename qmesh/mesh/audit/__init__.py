"""What is not as it should be on one machine: desired, observed and surroundings in, findings out.

findings      what the answer is made of
surroundings  what is looked at besides the node's state
maintenance   keys, agent, membership, clock, a change that waits
members       what machines tell of themselves: memory, speed, versions
network       the guard, the tunnel, and the links
node          the node's program, files, keys and processes
parts         all of these, in order
fixes         what `check --fix` does by itself
"""
