"""The network of this machine: links, routes, addresses, sockets, ports and DNS."""
