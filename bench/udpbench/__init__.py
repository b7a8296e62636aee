"""Measures udp-proxy beside other UDP proxies; `bench/run.py` is the command."""
