"""What commands print that show whether a machine is closed."""
