"""The proxy's file: what the administrator wrote, read once into frozen objects."""
