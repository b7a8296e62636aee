"""Who starts the children and what follows when one ends."""
