"""Why a session ended: exactly one of these, and how that counts (SPEC 3 and 7)."""

from __future__ import annotations

import enum


class Reason(enum.Enum):
    """The field REASON of the session's record."""

    IDLE = "idle"
    LIFETIME = "lifetime"
    UPLOAD_BYTES = "upload-bytes"
    UPLOAD_DATAGRAMS = "upload-datagrams"
    """Of a one-way session: nobody may answer, and so it has nothing to wait for."""
    DOWNLOAD_BYTES = "download-bytes"
    DOWNLOAD_DATAGRAMS = "download-datagrams"
    UNEXPECTED_REPLY = "unexpected-reply"
    UNREACHABLE = "unreachable"
    UNRESOLVED = "unresolved"
    POLICY = "policy"
    SILENT = "silent"
    EVICTED = "evicted"
    KILLED = "killed"
    TERMINATED = "terminated"
    ERROR = "error"
    EXTENSION = "extension"


_FAILED = {
    Reason.UNEXPECTED_REPLY,
    Reason.UNREACHABLE,
    Reason.UNRESOLVED,
    Reason.SILENT,
    Reason.ERROR,
}
_ABORTED = {Reason.POLICY, Reason.EVICTED, Reason.KILLED, Reason.TERMINATED, Reason.EXTENSION}


def result(reason: Reason) -> str:
    """The field RESULT: OK, FAILED (something broke) or ABORTED (somebody decided so)."""
    if reason in _FAILED:
        return "FAILED"
    return "ABORTED" if reason in _ABORTED else "OK"
