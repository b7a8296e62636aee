"""Reading the file of any of our services."""
