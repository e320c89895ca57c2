"""What `check` does besides looking at its own machine: clocks, fixes, and the findings of other machines."""
