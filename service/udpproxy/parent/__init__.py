"""The parent: owns every descriptor, watches the children, passes commands on. It carries no
datagram and resolves no name."""
