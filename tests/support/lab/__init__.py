"""The lab: whole machines on one LAN, meshes and clusters of them, and what is done to those."""
