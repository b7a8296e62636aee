"""Records of sessions for tests: one, and all that there can be."""

from __future__ import annotations

from hypothesis import strategies as st

from udpproxy.proxy.session.layout import Record, State

PORTS = st.integers(0, 65535)
COUNTERS = st.integers(0, (1 << 64) - 1)
NUMBERS = st.integers(0, (1 << 32) - 1)

RECORD = Record(
    id=1, state=State.OPENING, client=(b"\x0a\0\0\1", 4000), addressed=b"\x0a\0\0\2",
    local=b"\x0a\0\0\2", server=(b"\x0a\0\0\3", 53), source=(bytes(4), 0), last=5,
)  # fmt: skip


def _like(address: bytes) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=len(address), max_size=len(address))


@st.composite
def records(draw: st.DrawFn, *, of_layout_1: bool = False) -> Record:
    """Any; of layout 1 without what that could not say."""
    near = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
    client, server = draw(near), draw(near)
    like_server = st.tuples(_like(server), PORTS)
    record = Record(
        id=draw(COUNTERS),
        state=draw(st.sampled_from([State.OPENING, State.OPEN, State.UPLOAD_CLOSED])),
        type=draw(st.integers(0, 4)),
        rule_number=draw(NUMBERS),
        generation=draw(COUNTERS),
        listener=draw(NUMBERS),
        client=(client, draw(PORTS)),
        addressed=draw(_like(client)),
        local=draw(_like(client)),
        server=(server, draw(PORTS)),
        peer=draw(st.none() | like_server),
        source=draw(like_server),
        interface=draw(NUMBERS),
        scope=draw(NUMBERS),
        opened=draw(COUNTERS),
        opened_wall=draw(COUNTERS),
        last=draw(COUNTERS),
        uploads=draw(COUNTERS),
        upload_bytes=draw(COUNTERS),
        downloads=draw(COUNTERS),
        download_bytes=draw(COUNTERS),
        stray=draw(COUNTERS),
        icmp=draw(COUNTERS),
        send_errors=draw(COUNTERS),
    )
    if not of_layout_1:
        record.addressed_port = draw(PORTS)
        record.dropped = draw(COUNTERS)
        record.via = draw(st.none() | st.tuples(near, PORTS))
        record.local = draw(_like(record.via[0] if record.via else client))
        record.member = draw(NUMBERS)
        record.spare = draw(NUMBERS)
        record.server_scope = draw(NUMBERS)
    return record
