"""Clients in a machine that never stop asking:
load.py PORT SESSIONS DATAGRAMS-A-SECOND SOURCE [TARGET FIRST-PORT PREFIX].

Each session is a socket of its own. PREFIX, in hexadecimal digits, stands before each datagram, as
a PROXY header does. From a multicast TARGET the answer may come from any address. The server's
answer tells from which port the proxy wrote to it. Words on stdin, each answered with a line:
`mark` once every session has had an answer to something that was sent later; `report` stops
sending, waits for what is under way and prints what happened as JSON.
"""

import json
import select
import socket
import sys
import time

_PATIENCE = 5.0


class Load:
    def __init__(
        self,
        port: int,
        sessions: int,
        rate: float,
        source: str,
        target: str = "127.0.0.1",
        first: int = 8_000,
        prefix: bytes = b"",
    ) -> None:
        self.step = 1 / rate
        self.prefix = prefix
        found = socket.getaddrinfo(target, port, type=socket.SOCK_DGRAM)[0]
        family, kind, self.where = found[0], found[1], found[4]
        self.connects = not target.startswith(("224.", "239."))
        self.sockets: list[socket.socket] = []
        self.epoll = select.epoll()
        for number in range(sessions):
            client = socket.socket(family, kind | socket.SOCK_NONBLOCK)
            client.bind(socket.getaddrinfo(source, first + number, family, kind)[0][4])
            if self.connects:
                client.connect(self.where)
            self.epoll.register(client, select.EPOLLIN)
            self.sockets.append(client)
        self.numbers = {client.fileno(): place for place, client in enumerate(self.sockets)}
        self.sent_at: list[float] = []
        self.answered = bytearray()
        self.ports: list[list[int]] = [[] for _ in self.sockets]
        self.delays: list[float] = []
        self.twice = self.refused = 0
        self.last_answer = time.monotonic()
        self.gap = 0.0
        self.mark: int | None = 0
        self.unmarked = set(range(sessions))

    def run(self) -> None:
        self.epoll.register(0, select.EPOLLIN)
        due = time.monotonic()
        while True:
            now = time.monotonic()
            while due <= now:
                self.send()
                due += self.step
            if self.receive(due - now):
                return

    def send(self) -> None:
        number = len(self.sent_at)
        self.sent_at.append(time.monotonic())
        self.answered.append(0)
        try:
            sock, data = self.sockets[number % len(self.sockets)], self.prefix + b"%d" % number
            if self.connects:
                sock.send(data)
            else:
                sock.sendto(data, self.where)
        except OSError:
            self.refused += 1

    def receive(self, patience: float) -> bool:
        """True when it is time to report."""
        for fd, _ in self.epoll.poll(max(0.0, patience)):
            if fd:
                self.take(self.numbers[fd])
                continue
            word = sys.stdin.readline()
            if not word:
                sys.exit("nobody wants to know any more")
            if word != "mark\n":
                return True
            self.mark = len(self.sent_at)
            self.unmarked = set(range(len(self.sockets)))
        return False

    def take(self, place: int) -> None:
        while True:
            try:
                number, port = map(int, self.sockets[place].recv(100).split())
            except BlockingIOError:
                return
            except OSError:
                self.refused += 1
                return
            now = time.monotonic()
            self.twice += self.answered[number]
            self.answered[number] = 1
            self.delays.append(now - self.sent_at[number])
            self.gap = max(self.gap, now - self.last_answer)
            self.last_answer = now
            if port not in self.ports[place]:
                self.ports[place].append(port)
            if self.mark is not None and number >= self.mark:
                self.unmarked.discard(place)
                if not self.unmarked:
                    self.mark = None
                    print("answered", flush=True)

    def report(self) -> None:
        self.epoll.unregister(0)
        while sum(self.answered) < len(self.answered):
            if time.monotonic() - max(self.last_answer, self.sent_at[-1]) > _PATIENCE:
                break
            self.receive(0.05)
        delays = sorted(self.delays)
        lost = [number for number, done in enumerate(self.answered) if not done]
        print(
            json.dumps(
                {
                    "sent": len(self.answered),
                    "lost": len(lost),
                    "lost_sessions": len({number % len(self.sockets) for number in lost}),
                    "twice": self.twice,
                    "refused": self.refused,
                    "gap": self.gap,
                    "median": delays[len(delays) // 2],
                    "p99": delays[len(delays) * 99 // 100],
                    "ports": self.ports,
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    port, sessions, rate, source, *more = sys.argv[1:]
    target, first, prefix = more or ("127.0.0.1", "8000", "")
    load = Load(
        int(port),
        int(sessions),
        float(rate),
        source,
        target,
        int(first),
        bytes.fromhex(prefix),
    )
    load.run()
    load.report()
