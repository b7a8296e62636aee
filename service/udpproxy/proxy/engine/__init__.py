"""The relay itself: every datagram between clients and servers."""
