"""Where this machine's kernel sends packets: its tables, its rules, and its answer for one address."""
