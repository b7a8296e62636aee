"""A parent with its children, whatever it serves: it owns every descriptor, watches the children
and passes commands on. It carries no datagram and resolves no name."""
