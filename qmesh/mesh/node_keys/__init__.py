"""The node's identity, which all machines of a cluster have to have in common.

key_store      config.yml, keys.yml -> the identity in them, what is wrong with it, and where keys.yml is
planned_files  what was fetched from the control node, and what is there -> what is written
"""
