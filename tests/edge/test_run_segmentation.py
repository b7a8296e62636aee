"""UDP_SEGMENT, switched by the file, by a command, and by itself where the kernel refuses it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from socket import socket

import pytest

from built import of_native
from echo import udp
from host import free_port
from namespaces import Network, ip
from proxy import Proxy, config, until
from rig import Rig, verdict

LOW, LOW6 = "1000", "1290"
"""MTUs that datagrams of 1,250 bytes are too large for: they travel as fragments."""

SESSIONS = 64
"""So many whose device cannot make all do without."""

TOP = "max-sessions = 10"

RUN = range(20)
"""Numbers of datagrams that one end sends to one other while the proxy stands still."""

REST = 3.0
SOON = f"""
from udpproxy.proxy.engine import interface
interface.SEGMENTATION_REST = {REST} * 1e9
"""

REFUSAL = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>
#include <sys/socket.h>

// As a kernel whose way to the other end cannot cut runs: none of UDP_SEGMENT, all of the others.
int sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags)
{
    int (*real)(int, struct mmsghdr *, unsigned, int) = dlsym(RTLD_NEXT, "sendmmsg");
    unsigned whole = 0;
    while (whole < count && messages[whole].msg_hdr.msg_iovlen == 1)
        whole++;
    if (whole || !count)
        return real(fd, messages, whole, flags);
    errno = EIO;
    return -1;
}
"""


Ends = tuple[list[socket], list[tuple[str, int]]]


def is_on(proxy: Proxy) -> bool:
    figures = until(lambda: proxy.info("reg"))
    return bool(figures["segmentation"])


class TestSwitch:
    """What holds after which command."""

    pytestmark = of_native

    def test_by_command(self, tmp_path: Path) -> None:
        with Proxy(tmp_path, config(free_port(), "127.0.0.1:9", top=TOP)) as proxy:
            assert is_on(proxy)
            assert proxy.ask("segmentation", "off") is None
            assert not is_on(proxy)
            proxy.next_reg(proxy.kill(signal.SIGKILL, "reg"))
            until(proxy.ready)
            until(lambda: proxy.ctl("--process", "reg", "info").returncode == 0)
            assert not is_on(proxy)
            proxy.ask("reload")
            assert not is_on(proxy)  # the file says nothing new
            proxy.ask("segmentation", "auto")
            assert is_on(proxy)

    def test_by_file(self, tmp_path: Path) -> None:
        off = f'{TOP}\nsegmentation = "off"'
        with Proxy(tmp_path, config(port := free_port(), "127.0.0.1:9", top=off)) as proxy:
            assert not is_on(proxy)
            proxy.ask("segmentation", "auto")
            assert is_on(proxy)
            proxy.write(config(port, "127.0.0.1:9", top=TOP))
            proxy.ask("segmentation", "off")
            proxy.ask("reload")
            assert is_on(proxy)

    def test_other_words_are_refused(self, tmp_path: Path) -> None:
        with Proxy(tmp_path, config(free_port(), "127.0.0.1:9", top=TOP)) as proxy:
            for word in ("on", "perhaps", ""):
                done = proxy.ctl("segmentation", word)
                assert (done.returncode, "auto or off" in done.stderr) == (1, True)
            assert is_on(proxy)


def test_the_python_engine_refuses(tmp_path: Path) -> None:
    top = f'{TOP}\nengine = "python"'
    with Proxy(tmp_path, config(port := free_port(), "127.0.0.1:9", top=top)) as proxy:
        done = proxy.ctl("segmentation", "auto")
        assert (done.returncode, "singly" in done.stderr) == (1, True)
        proxy.write(config(port, "127.0.0.1:9", top=f'{top}\nsegmentation = "off"'))
        proxy.ask("reload")


def runs(number: int) -> list[bytes]:
    """Equal ones, a shorter one, a longer one: no two the same."""
    sizes = [1200] * 6 + [1100] + [1250] * 3
    return [b"%d %d ".ljust(size, b".") % (number, i) for i, size in enumerate(sizes)]


def pass_all(
    rig: Rig, sender: socket, receiver: socket, where: tuple[str, int], number: int
) -> None:
    """In one batch, and out as they were."""
    for data in runs(number):
        sender.sendto(data, where)
    assert [rig.take(receiver)[0] for _ in runs(number)] == runs(number)


@pytest.fixture(params=[4, 6])
def narrow(request: pytest.FixtureRequest) -> Iterator[tuple[Network, dict[str, str]]]:
    """A client, a proxy and a server with a low MTU between them: the network, their addresses."""
    prefix, bits, mtu = ("10.9.0.", 24, LOW) if request.param == 4 else ("fd00:9::", 64, LOW6)
    hosts = {name: f"{prefix}{number}" for number, name in enumerate("cps", 1)}
    with Network() as network:
        for name, address in hosts.items():
            network.add(name, f"{address}/{bits}")
            ip("-n", network.name(name), "link", "set", "eth0", "mtu", mtu)
        yield network, hosts


def test_where_the_way_is_narrow(
    new_rig: Callable[..., Rig], narrow: tuple[Network, dict[str, str]]
) -> None:
    """The kernel refuses runs of datagrams larger than the MTU: not one is lost, and nobody else
    does without."""
    network, hosts = narrow
    rig = network.on("p", lambda: new_rig(sessions=SESSIONS + 1))
    network.on("p", lambda: rig.listen(hosts["p"]))
    server = network.on("s", lambda: rig.udp(hosts["s"]))
    rig.host.policy = lambda _: verdict(server.getsockname()[:2])
    for number in range(1, SESSIONS + 2):
        client = network.on("c", lambda: rig.udp(hosts["c"]))
        client.sendto(b"first", rig.where())
        _, source = rig.take(server)
        pass_all(rig, client, server, rig.where(), number)
        pass_all(rig, server, client, source, number)
        figures = rig.engine.figures()
        if "segmentation" in figures:  # the native engine's
            assert figures["segmentation-refused"] == number
            assert figures["segmentation"] == 1, "another way may be wider"
    assert rig.host.unable == []
    assert rig.count("send-errors") == 0
    assert rig.count("upload-datagrams") == (SESSIONS + 1) * (1 + len(runs(0)))
    assert rig.count("download-datagrams") == (SESSIONS + 1) * len(runs(0))


class TestWhereTheDeviceCannot:
    """EIO, which kernels give for a device without checksums (until 6.11) and for IPsec."""

    pytestmark = of_native

    @pytest.fixture
    def rest(self) -> str:
        """Python for how long all do without."""
        return ""

    @pytest.fixture
    def proxy(self, tmp_path: Path, rest: str) -> Iterator[Proxy]:
        """One whose kernel seems to be such; `self.port` is its own, `self.server` its server."""
        (tmp_path / "sitecustomize.py").write_text(rest)
        source, library = tmp_path / "refusal.c", tmp_path / "refusal.so"
        source.write_text(REFUSAL)
        build = f"cc -shared -fPIC -O1 -o {library} {source} -ldl"
        subprocess.run(build.split(), check=True, timeout=60)
        self.port = free_port()
        with udp() as self.server:
            address, port = self.server.getsockname()
            text = config(self.port, f"{address}:{port}")
            proxy = Proxy(tmp_path, text, single=True)  # children have a clean environment
            before = os.environ.get("LD_PRELOAD", "")
            proxy.environment["LD_PRELOAD"] = f"{before} {library}".strip()
            proxy.environment["PYTHONPATH"] = str(tmp_path)
            with proxy:
                yield proxy

    @pytest.fixture
    def ends(self, proxy: Proxy) -> Iterator[Ends]:
        """Clients, and from where the proxy speaks for each of them."""
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(udp()) for _ in range(SESSIONS + 16)]
            sources = []
            for client in clients:
                client.sendto(b"first", ("127.0.0.1", self.port))
                sources.append(self.server.recvfrom(100)[1])
            assert is_on(proxy)
            yield clients, sources

    def refused(self, proxy: Proxy, clients: list[socket]) -> None:
        """After so many sessions, and those whose runs are in the same batch, nobody tries."""
        figures = proxy.info("reg")
        assert SESSIONS <= figures["segmentation-refused"] < len(clients)
        assert figures["segmentation"] == figures["send-errors"] == 0
        (said,) = until(lambda: proxy.said("UDPS-224-N"))
        assert "again in 10 minutes" in said

    def carried(self, proxy: Proxy, ends: Ends) -> None:
        """A run of each client, and all of it arrives."""
        proxy.kill(signal.SIGSTOP)
        sent = []
        for of, (client, source) in enumerate(zip(*ends, strict=True)):
            for number in RUN:
                client.sendto(b"%d %d" % (of, number), ("127.0.0.1", self.port))
                sent.append((b"%d %d" % (of, number), source))
        proxy.kill(signal.SIGCONT)
        assert sorted(self.server.recvfrom(100) for _ in sent) == sorted(sent)

    def test_every_datagram_arrives(self, proxy: Proxy, ends: Ends) -> None:
        self.carried(proxy, ends)
        self.refused(proxy, ends[0])

    @pytest.mark.parametrize("rest", [SOON])
    def test_it_is_tried_again(self, proxy: Proxy, ends: Ends) -> None:
        self.carried(proxy, ends)
        until(lambda: proxy.said("UDPS-224-N"))
        until(lambda: is_on(proxy))
        self.carried(proxy, ends)
        assert is_on(proxy), "few of them are new"
        assert proxy.ask("segmentation", "off") is None
        time.sleep(2 * REST)
        assert not is_on(proxy), "a command is not undone"

    def test_every_reply_arrives(self, proxy: Proxy, ends: Ends) -> None:
        clients, sources = ends
        proxy.kill(signal.SIGSTOP)
        for of, source in enumerate(sources):
            for number in RUN:
                self.server.sendto(b"%d %d" % (of, number), source)
        proxy.kill(signal.SIGCONT)
        for of, client in enumerate(clients):
            assert [client.recv(100) for _ in RUN] == [b"%d %d" % (of, each) for each in RUN]
        self.refused(proxy, clients)
