"""A classic daemon: started, stopped and asked by its PID file (SPEC 9)."""
