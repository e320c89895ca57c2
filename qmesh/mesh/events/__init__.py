"""The events that are logged."""
