"""What the administrator wrote, read once into frozen objects."""
