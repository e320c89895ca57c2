"""qmesh: a guarded WireGuard mesh for a cluster of Quilibrium node machines."""

__version__ = "0.1.0"
