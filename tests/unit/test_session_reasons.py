"""Every reason has its result, and its name is that of the specification."""

from __future__ import annotations

from udpproxy.proxy.session.reasons import Reason, result

RESULTS = {
    "OK": {
        "idle", "lifetime", "upload-bytes", "upload-datagrams", "download-bytes",
        "download-datagrams",
    },
    "FAILED": {"unexpected-reply", "unreachable", "unresolved", "silent", "error"},
    "ABORTED": {"policy", "evicted", "killed", "terminated", "extension"},
}  # fmt: skip


def test_every_reason_has_its_result() -> None:
    found: dict[str, set[str]] = {"OK": set(), "FAILED": set(), "ABORTED": set()}
    for reason in Reason:
        found[result(reason)].add(reason.value)
    assert found == RESULTS
