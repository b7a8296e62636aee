"""What the proxy's parent owns and lends to its children."""
