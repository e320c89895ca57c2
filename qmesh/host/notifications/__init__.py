"""How notifications leave a machine: by HTTP, in a process of their own, and by a program of root's."""
