"""REG: the process that holds the sessions and carries their datagrams."""
