"""What a session is: its rules, its limits, its record. No socket, no clock."""
