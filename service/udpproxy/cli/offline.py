"""What can be asked of a file without a running proxy: check, explain, show.

Each prints its answer and returns the exit status: 0, 2 for a bad value on the command line, 78
for mistakes in the file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TypeVar

from udpproxy.config import addresses, load
from udpproxy.config import show as shown
from udpproxy.config.model import Acl, Address, Config
from udpproxy.errors import ConfigError, InvalidArgument
from udpproxy.policy.acl import Policy, Question, Step, server_for

T = TypeVar("T")

_DONE = 0
_USAGE = 2
_CONFIG = 78


def check(path: Path, *, resolve: bool) -> int:
    """Say whether the file is right, with every mistake in it."""
    try:
        config = load.read(path)
    except ConfigError as error:
        return _mistaken(error)
    for warning in config.warnings:
        _tell(f"warning: {warning}")
    try:
        load.instance_name(path)
    except ConfigError as error:
        # A draft beside the real file may be called anything.
        _tell(f"warning: {error}")
    if resolve:
        print(f"{path}: no names to resolve")
    print(f"{path}: ok")
    return _DONE


def explain(path: Path, *, client: str, to: str | None, at: str | None) -> int:
    """Say which ACL decides for a client, and why none before it did."""
    try:
        config = load.read(path)
        question = _question(config, client, to)
        steps = Policy(config).explain(question, _moment(at))
    except ConfigError as error:
        return _mistaken(error)
    except InvalidArgument as error:
        _tell(f"udp-proxy explain: {error}")
        return _USAGE
    print("\n".join(_answer(steps, question)))
    return _DONE


def show(path: Path, *, defaults: bool) -> int:
    """Print the file as it was understood."""
    try:
        config = load.read(path)
    except ConfigError as error:
        return _mistaken(error)
    print(shown.render(config, defaults=defaults), end="")
    return _DONE


def _mistaken(error: ConfigError) -> int:
    _tell(str(error))
    return _CONFIG


def _tell(text: str) -> None:
    print(text, file=sys.stderr)


def _answer(steps: list[Step], question: Question) -> Iterable[str]:
    """The deciding ACL first: programs read that line alone."""
    deciding = steps[-1].acl if steps and steps[-1].holds else None
    yield deciding.name if deciding else "-"
    yield f"action: {'accept' if deciding and deciding.accept else 'deny'}"
    for step in steps:
        if not step.holds:
            yield f"not {step.acl.name} (line {step.acl.line}): {step.why}"
    if deciding is None:
        yield "why: no ACL matches, so it is refused"
        return
    yield f"why: {deciding.name} (line {deciding.line}): {steps[-1].why}"
    if deciding.accept:
        yield f"server: {addresses.endpoint(*server_for(deciding, question))}"
        yield f"type: {deciding.type.value}"
        yield f"limits: {shown.words(deciding.limits)}"


def _question(config: Config, client_text: str, to: str | None) -> Question:
    """The question, with what is not given taken from the listeners where they leave no choice."""
    client, _ = _endpoint("--from", client_text)
    address, port = (None, None) if to is None else _endpoint("--to", to)
    if address is not None and address.version != client.version:
        raise InvalidArgument(f"--to {to}: a client of {client} cannot write to {address}")
    takers = [
        listener
        for listener in config.listen
        if listener.address.version == client.version
        and (address is None or address == listener.address or listener.address.is_unspecified)
        and (port is None or port in listener.ports)
    ]
    if not takers:
        _tell("note: no listener takes such a datagram")
    if address is None:
        address = _only({listener.address for listener in takers})
        if address is None or address.is_unspecified:
            _must_not_matter(config.acls, "an address", by_address=True)
            address = IPv4Address(0) if client.version == 4 else IPv6Address(0)
    if port is None:
        ranges = {listener.ports for listener in takers}
        port = _only({number for each in ranges for number in (each.first, each.last)})
        if port is None:
            _must_not_matter(config.acls, "a port", by_address=False)
    return Question(client, address, port or 0)


def _must_not_matter(acls: tuple[Acl, ...], what: str, *, by_address: bool) -> None:
    """Refuse to guess what an ACL looks at."""
    for acl in acls:
        items = acl.destinations or ()
        if by_address:
            looks = any(item.network is not None for item in items)
        else:
            looks = any(item.ports is not None for item in items) or (
                acl.accept and acl.server is not None and acl.server.port is None
            )
        if looks:
            raise InvalidArgument(
                f"--to with {what} is needed: ACL {acl.name} depends on it "
                "and the listeners leave it open"
            )


def _only(found: set[T]) -> T | None:
    return found.pop() if len(found) == 1 else None


def _endpoint(option: str, given: str) -> tuple[Address, int | None]:
    try:
        host, port = addresses.split(given)
        return addresses.address(host), None if port is None else addresses.port(port)
    except ValueError as error:
        raise InvalidArgument(f"{option} {given}: {error}") from None


def _moment(at: str | None) -> datetime:
    """Local time, as the ACLs mean it; a time zone that is given is converted."""
    if at is None:
        return datetime.now()
    try:
        moment = datetime.fromisoformat(at)
        if not 1970 <= moment.year <= 9000:
            raise ValueError
    except ValueError:
        raise InvalidArgument(
            f"--at {at}: expected a time such as 2030-12-24T08:30 (ISO 8601, local time)"
        ) from None
    return moment.astimezone().replace(tzinfo=None) if moment.tzinfo else moment
