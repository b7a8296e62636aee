"""What a product is called: all names by which one service differs from another on this frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """`name` is the command, the package, the user, and what units and directories begin with;
    `bus` what names on D-Bus begin with. `child` and `daemon` are the modules that run as one."""

    name: str
    version: str
    bus: str
    noun: str
    """The interface's last word, and what people call it: Proxy."""
    child: str
    daemon: str
    interfaces: Path
    """Where the XML of its D-Bus interfaces is."""

    @property
    def spoken(self) -> str:
        """An instance, in a sentence."""
        return f"the {self.noun.lower()}"

    @property
    def configurations(self) -> Path:
        """The directory of the instances' files."""
        return Path("/etc") / self.name

    @property
    def runtime(self) -> Path:
        """Where the instances have their runtime directories that root or systemd starts."""
        return Path("/run") / self.name

    @property
    def children(self) -> str:
        """The user as whom the children's units run."""
        return f"{self.name}-child"

    @property
    def root(self) -> str:
        """The path of an instance's main object on the bus."""
        return "/" + self.bus.replace(".", "/")

    @property
    def interface(self) -> str:
        """Of that object."""
        return f"{self.bus}.{self.noun}"

    @property
    def process(self) -> str:
        """The interface of a process's object."""
        return f"{self.bus}.Process"

    @property
    def action(self) -> str:
        """What polkit is asked for."""
        return f"{self.bus}.control"

    @property
    def failed(self) -> str:
        """The name of the error on the bus where something could not be done."""
        return f"{self.bus}.Error.Failed"

    def bus_name(self, instance: str) -> str:
        """Of an instance."""
        return f"{self.bus}.{instance}"

    def unit(self, instance: str, role: str = "") -> str:
        """The unit of an instance, or of the child in that role; see roles.py for its name."""
        kind, colon, which = role.partition(":")
        template = f"{self.name}-{kind}" if role else self.name
        return f"{template}@{instance}{colon}{_escaped(which)}.service"

    def path(self, role: str) -> str:
        """The object of the process in that role."""
        kind, colon, which = role.partition(":")
        return f"{self.root}/{kind}" + (f"/{_label(which)}" if colon else "")

    def speaker(self, instance: str, role: str = "") -> str:
        """Who logs: SyslogIdentifier of that process."""
        return f"{self.name}/{instance}" + (f"/{role}" if role else "")


def _escaped(text: str) -> str:
    """As systemd-escape(1): what a unit's name cannot have becomes \\xNN, and a slash a dash."""
    escaped = "".join(
        "-" if each == "/" else each if _is_plain(each) or each in ":_." else _hexadecimal(each)
        for each in text.encode().decode("latin-1")
    )
    return f"\\x2e{escaped[1:]}" if escaped.startswith(".") else escaped


def _label(text: str) -> str:
    """As systemd names objects on the bus: all but ASCII letters and digits becomes _NN, and so
    does a digit at the beginning."""
    sound = "".join(
        each if _is_plain(each) else f"_{ord(each):02x}" for each in text.encode().decode("latin-1")
    )
    first = f"_{ord(sound[0]):02x}" if sound[:1].isdigit() else sound[:1]
    return (first + sound[1:]) or "_"


def _is_plain(each: str) -> bool:
    return each.isascii() and each.isalnum()


def _hexadecimal(each: str) -> str:
    return rf"\x{ord(each):02x}"
