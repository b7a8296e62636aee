"""Names to addresses and back: a pure look-up machine, its asyncio shell, and ACR's names.

guard, codec, question, ask, machine and names know no socket, clock or loop.
"""
