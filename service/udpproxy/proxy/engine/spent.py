"""Slots of the Python engine whose sockets keep a port (fixed.py), until there are others."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from udpproxy.proxy.session.index import SessionIndex


class SpentSlots:
    """Not told one by one, and not before those that were told are back: so there are many at a
    time, the more the faster they come."""

    def __init__(
        self,
        book: SessionIndex,
        kept: Callable[[int], list[int]],
        tell: Callable[[list[tuple[int, int]]], object],
    ) -> None:
        """`kept`: the families whose socket of a slot keeps a port."""
        self._book = book
        self._kept = kept
        self._tell = tell
        self._unsaid: list[int] = []
        self._awaited: dict[int, set[int]] = {}

    def add(self, slots: Iterable[int]) -> None:
        """The book has them as spent."""
        self._unsaid += slots
        self.look()

    def look(self, *, all_of_them: bool = False) -> None:
        """Tell of them where they are many, or missed, or have waited: `all_of_them`."""
        if not self._unsaid or self._awaited:
            return
        if not all_of_them and len(self._unsaid) < self._book.few and not self._book.is_low:
            return
        self._awaited = {slot: set(self._kept(slot)) for slot in self._unsaid}
        self._unsaid.clear()
        self._tell([(family, slot) for slot, its in self._awaited.items() for family in its])

    def came(self, family: int, slot: int) -> bool:
        """Another socket; False: none was wanted."""
        missing = self._awaited.get(slot, set())
        if family not in missing:
            return False
        missing.remove(family)
        if not missing:
            del self._awaited[slot]
            self._book.replaced(slot)
        return True
