"""What every one of our processes does, whoever started it."""
