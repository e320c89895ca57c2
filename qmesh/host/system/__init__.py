"""The rest of the operating system: processes, services, logs, the disk."""
