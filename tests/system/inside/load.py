"""Clients in a machine that never stop asking: load.py PORT SESSIONS DATAGRAMS-A-SECOND SOURCE.

Each session is a socket of its own. The server's answer tells from which port the proxy wrote to
it. Words on stdin, each answered with a line: `mark` once every session has had an answer to
something that was sent later; `report` stops sending, waits for what is under way and prints what
happened as JSON.
"""

import json
import select
import socket
import sys
import time

_PATIENCE = 5.0


class Load:
    def __init__(self, port: int, sessions: int, rate: float, source: str) -> None:
        self.step = 1 / rate
        self.sockets: list[socket.socket] = []
        self.epoll = select.epoll()
        for number in range(sessions):
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            client.bind((source, 8_000 + number))
            client.connect(("127.0.0.1", port))
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
            self.sockets[number % len(self.sockets)].send(b"%d" % number)
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
    load = Load(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4])
    load.run()
    load.report()
