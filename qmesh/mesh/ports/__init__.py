"""Which ports of a machine its guard closes, for whom, and which it must not touch.

closed_ports  inventory, a machine's name and what was seen there -> the guard's ports
port_options  what a user asks for -> the inventory with it, or why not
port_ranges   ports <-> ranges as text
"""
