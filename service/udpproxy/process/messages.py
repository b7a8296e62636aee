"""Every message that can be logged, each with its stable id: component, number, severity.

Components: UDPS the server behind all proxies, UDPP this proxy. The reference system's ids are
kept where it has them. Severities: C critical, E error, W warning, N notice, I normal, D debug,
T trace, F full. An id is never given to another meaning.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

_SPACE = uuid.UUID("5c1f0b54-55d5-4ddc-9f11-1a33b7f5c1c5")
LEVELS = {"C": 3, "E": 3, "W": 4, "N": 5, "I": 6, "D": 7, "T": 8, "F": 9}
"""The log level from which a message of each severity is seen (SPEC 7)."""


@dataclass(frozen=True, slots=True)
class Message:
    """`text` takes %-arguments."""

    id: str
    text: str

    @property
    def severity(self) -> str:
        """One letter."""
        return self.id[-1]

    @property
    def level(self) -> int:
        """3..9"""
        return LEVELS[self.severity]

    @property
    def journal_id(self) -> str:
        """MESSAGE_ID of the journal: 128 bits made from the id, so stable like it."""
        return uuid.uuid5(_SPACE, self.id).hex


READY = Message("UDPS-100-I", "ready: %s")
CHILD_READY = Message("UDPS-101-D", "ready")
STARTING = Message("UDPS-102-I", "%s %s, instance %s, is starting")
STOPPING = Message("UDPS-103-I", "stopping: %s")
STOPPED = Message("UDPS-104-I", "stopped with %s")
NO_PARENT = Message("UDPS-106-N", "there is no parent: %s: %s")
CONFIG_WARNING = Message("UDPS-110-W", "%s")
SINGLE = Message(
    "UDPS-111-W",
    "single process, for debugging: nothing restarts it, sessions end with it, names are looked "
    "up once and look-ups block",
)
CLEAN_UP_FAILED = Message("UDPS-120-E", "clean-up of %s failed: %s")
RECEIVE_BUFFER = Message(
    "UDPS-112-N",
    "receive buffer of %s is %d bytes, not %d: raise net.core.rmem_max or bursts are lost",
)
CHILD_STARTED = Message("UDPS-200-D", "%s started as process %d")
CHILD_ENDED = Message("UDPS-201-W", "%s (process %d) ended unasked: %s")
CHILD_SILENT = Message("UDPS-202-E", "%s (process %d) does not answer: killed")
CHILD_KILLED = Message("UDPS-203-E", "%s (process %d) did not go within %g s: killed")
CHILD_LEFT_ALONE = Message("UDPS-207-E", "%s (process %d) did not let go within %g s")
CHILD_NOT_STARTED = Message("UDPS-208-E", "%s cannot be started: %s")
RESTART_UNKNOWN = Message(
    "UDPS-122-W", "systemd does not say whether this is a restart: the sessions are kept"
)
STORED_WRONGLY = Message("UDPS-123-W", "%s in systemd's store %s: it is thrown out")
ABSENT = Message(
    "UDPS-126-W", "this host does not have the address %s for now: nothing comes in there till then"
)
LINK_ABSENT = Message(
    "UDPS-131-W",
    "this host does not have the interface %s for now: nothing comes in there till then",
)
LINK_GONE = Message("UDPS-132-W", "the interface %s is gone: nothing comes in there for now")
LINK_BACK = Message("UDPS-133-I", "the interface %s is there: it is listened on")
GROUP_NOT_JOINED = Message("UDPS-134-W", "cannot join the multicast group %s at %s for now: %s")
NETWORK_UNSEEN = Message(
    "UDPS-127-N",
    "changes of this host's network are not seen: %s; sessions whose way has changed go on once a "
    "send fails, or by the limit silent, and an interface that comes is not listened on",
)
NOT_REDIRECTED = Message(
    "UDPS-135-W", "what the firewall redirects does not reach the proxy: run %s"
)
STORE_FULL = Message(
    "UDPS-125-W",
    "systemd's store has %d of the %d descriptors that a restart needs: sessions would be lost; "
    "raise FileDescriptorStoreMax= of the unit",
)
LISTENER_MENDED = Message("UDPS-124-W", "listener on %s was put right: %s")
RECORD_LOST = Message("UDPS-217-E", "the session in slot %d of the table is lost: %s%s")
LISTENER_REMADE = Message("UDPS-218-E", "listener on %s is made anew: %s")
GIVEN_UP = Message("UDPS-219-E", "reg ended %d times in a row soon after it came; given up: %s; %s")
NOT_LENT = Message("UDPS-226-E", "cannot give %s what it needs for now, and tries again: %s")
NOT_RELAYING = Message("UDPS-225-E", "cannot relay for now, and tries again: %s")
SOCKETS_LACK = Message(
    "UDPS-231-W",
    "there are sockets towards servers for %d sessions and no more for now, which is tried again: "
    "%s",
)
UNSEGMENTED = Message(
    "UDPS-224-N",
    "a network device cannot cut runs of datagrams (%d sessions were refused): all are sent "
    "singly, and it is tried again in %d minutes",
)
CHILD_LEFT = Message("UDPS-220-D", "%s (process %d) left: %s")
CHILD_LEFT_BADLY = Message("UDPS-221-W", "%s (process %d) did not leave in order: %s")
LINK_LOST = Message("UDPS-204-D", "link to %s closed: %s")
LINK_FAULT = Message("UDPS-212-E", "link to %s: %s%s")
LINK_REFUSED = Message("UDPS-205-W", "a connection to the control socket was refused: %s")
POOL_REMADE = Message("UDPS-206-E", "carrier %d of the socket pool was emptied and is made anew")
ADOPTED = Message("UDPS-210-I", "goes on with %d sessions")
NOT_TAKEN_OVER = Message("UDPS-211-W", "%s: %s")
LIMIT_STAYS = Message("UDPS-230-W", "the limit of open descriptors stays at %d: %s")
LEVEL = Message("UDPS-300-I", "log level is %s")
REOPENED = Message("UDPS-301-I", "log reopened")
LINES_LOST = Message("UDPS-306-W", "%d log lines are lost: nobody took them in time")
INFO = Message("UDPS-302-I", "info: %s")
RELOADED = Message("UDPS-303-I", "configuration reloaded: %d listening, %d rules")
SESSIONS_WITHDRAWN = Message(
    "UDPS-305-I", "%d sessions ended, which the new rules refuse or send to another server"
)
SESSIONS_LED = Message(
    "UDPS-313-I", "the rules of some sessions have another server now: %d follow, %d stay"
)
RELOAD_FAILED = Message("UDPS-304-W", "configuration not reloaded: %s")
SIGNAL_UNANSWERED = Message("UDPS-311-W", "a signal's verb did not reach everybody: %s")
LOG_STAYS = Message(
    "UDPS-307-W", "%s: this process cannot write there, its log goes on where it went"
)
REOPEN_FAILED = Message("UDPS-308-W", "%s: log not reopened, it goes on in the old file")
HELD_TOO_LONG = Message(
    "UDPS-309-W", "log files were held for %g s and nobody reopened them: they are written again"
)
COMMAND_REFUSED = Message("UDPS-310-W", "command %s from uid %d refused: %s")
STORE_SILENT = Message("UDPS-229-W", "%s stays in systemd's store for now: %s")
TOO_MANY_ENDS = Message(
    "UDPS-510-C", "too many terminated children: %s ended %d times within %g s; giving up"
)
CONFIG_MISTAKE = Message("UDPS-521-E", "cannot start: %s")
START_FAILED = Message("UDPS-520-E", "cannot start: %s")
INTERNAL = Message("UDPS-530-C", "internal error, please report it: %s")
CARRY_FAILED = Message("UDPS-600-W", "cannot %s: %s%s%s")
BUS_LOST = Message("UDPS-320-N", "no control over D-Bus for now: %s")
BUS_READY = Message("UDPS-321-D", "on D-Bus as %s")
BUS_ABSENT = Message("UDPS-323-D", "no control over D-Bus: %s")
BUS_IGNORED = Message("UDPS-324-W", "a message on D-Bus was ignored: %s%s")
CALL_FAILED = Message("UDPS-325-W", "D-Bus call %s by uid %d failed: %s%s")
CALL_REFUSED = Message("UDPS-322-W", "D-Bus call %s by uid %d refused: %s%s")
KEPT = Message("UDPS-105-I", "restarting: %s are kept")
UNEXPECTED_REPLY = Message("UDPS-630-W", "reply from %s ignored, rule %s%s")
SERVER_UNREACHABLE = Message(
    "UDPS-631-W", "server %s of rule %s cannot be reached for client %s: %s%s"
)
SERVER_ANSWERS = Message(
    "UDPS-632-N", "server %s of rule %s answers again; %d sessions could not reach it, for %d s"
)
SERVER_SILENT = Message(
    "UDPS-633-N",
    "server %s of rule %s does not answer client %s: session %d is connected afresh, from %s%s",
)
MEMBER_DOWN = Message("UDPS-634-W", "server %s of group %s is down: %s; %d of %d are up%s")
MEMBER_UP = Message(
    "UDPS-635-N", "server %s of group %s is up again, after %d s; %d of %d are up%s"
)
ALL_DOWN = Message("UDPS-636-W", "all servers of group %s are down: all of them are used")
MEMBER_DRAINED = Message("UDPS-637-N", "server %s of group %s gets no new sessions: %s")
MEMBER_UNDRAINED = Message("UDPS-638-N", "server %s of group %s gets new sessions again")
REROUTED = Message(
    "UDPS-601-N", "the way of session %d from %s to %s, rule %s, has changed: it goes on from %s%s"
)
NO_ROOM = Message("UDPS-640-W", "new session of %s refused: %s%s")
NOT_COPIED = Message("UDPS-602-W", "cannot send a copy to %s, rule %s: %s%s")
BAD_HEADER = Message("UDPS-643-W", "datagram of %s dropped: %s%s")
PRESSURE_ON = Message("UDPS-641-N", "session table under pressure: %d of %d in use")
PRESSURE_OFF = Message("UDPS-642-N", "session table relieved: %d of %d in use")
OPENED = Message("UDPP-820-D", "session %d of %s opened by %s to %s%s")
ACCEPTED = Message("UDPP-821-D", "session of %s accepted by %s%s")
REFUSED = Message("UDPP-821-I", "session of %s to %s refused: %s%s")
KEPT_IN_DOUBT = Message("UDPP-887-I", "%s")
RECORD = Message("UDPP-888-I", "%s")
UNANSWERED = Message(
    "UDPP-889-W", "%d more sessions of %s ended without any reply and have no records of their own"
)
PAYLOAD = Message("UDPP-900-F", "session %d %s %d bytes: %s")
NAME_CHANGED = Message(
    "UDPP-830-N",
    "name %s: %s, before %s, for %g s; rules %s; sessions: %d stay, %d follow, %d end%s",
)
NAME_FAILED = Message("UDPP-831-W", "name %s is not resolved: %s; %s")
NAME_BACK = Message("UDPP-832-N", "name %s is resolved again: %s")
NAME_GONE_STALE = Message("UDPP-833-W", "name %s could not be resolved for %g s: it has no address")
LOOKED_UP = Message("UDPP-834-D", "name %s: %s, for %g s, in %.3f s")
ANSWERS_LATE = Message(
    "UDPP-835-W", "answers of APR are late: %d look-ups wait, one for %.1f s; the relay goes on"
)
ANSWERS_AGAIN = Message("UDPP-836-N", "APR answers in time again")
NO_WAITING_ROOM = Message("UDPP-837-W", "datagrams of %s dropped: too many wait for names%s")
CLIENT_NAMED = Message("UDPP-838-D", "client %s is %s")
NAMES_RESUMED = Message("UDPP-839-D", "goes on with %d names that are known")
NO_NAME_SERVERS = Message("UDPP-840-W", "%s")
WORD_IGNORED = Message("UDPP-841-W", "%s told what makes no sense, it is ignored: %s%s")
EXTENSION_LOADED = Message("UDPP-850-D", "extension %s of rule %s is loaded")
EXTENSION_UNUSABLE = Message(
    "UDPP-851-E", "extension %s of rule %s cannot be used, its sessions are refused: %s"
)
EXTENSION_FAILED = Message("UDPP-852-E", "extension %s of rule %s failed in %s: %s%s")
EXTENSION_ENDED = Message("UDPP-853-I", "session %d ended by extension %s of rule %s: %s%s")

ALL = tuple(value for value in list(globals().values()) if isinstance(value, Message))
