"""Who may open a session and where it goes: pure, told the time, asking nobody."""
