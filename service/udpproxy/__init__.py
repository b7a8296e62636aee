"""A UDP session proxy: datagrams become sessions, by rule, and come back."""

__version__ = "0.2.0"
