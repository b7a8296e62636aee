"""An echo server in a machine: each datagram goes back with the port it came from behind it."""

import socket
import sys

import sdnotify

_RCVBUFFORCE = 33

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, 32 << 20)
server.bind((sys.argv[1], int(sys.argv[2])))
sdnotify.SystemdNotifier().notify("READY=1")
while True:
    data, source = server.recvfrom(65_535)
    server.sendto(data + b" %d" % source[1], source)
