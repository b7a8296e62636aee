"""Who may share an end of ours, and who may not."""

from __future__ import annotations

from udpproxy.proxy.engine.ends import Claim, OwnEnds

END = ("192.0.2.1", 5060)
CLIENT = (bytes([192, 0, 2, 9]), 5060)
ONE, OTHER = ("198.51.100.1", 5060), ("198.51.100.2", 5060)


def test_towards_different_servers() -> None:
    ends = OwnEnds()
    first, second = Claim(ends, ONE, CLIENT, alone=False), Claim(ends, OTHER, CLIENT, alone=False)
    assert END not in ends
    assert first.take(END)
    assert second.take(END)
    again = Claim(ends, ONE, CLIENT, alone=False)
    assert not again.take(END)
    assert again.take((END[0], 5061))
    assert again.take(("192.0.2.2", END[1]))
    assert (END[0], 5061) not in ends  # it has another one now
    first.give_back()
    assert END in ends
    assert again.take(END)
    for claim in (second, again):
        claim.give_back()
        claim.give_back()
    assert END not in ends


def test_one_that_hears_many_is_alone() -> None:
    ends = OwnEnds()
    alone, other = Claim(ends, ONE, CLIENT, alone=True), Claim(ends, OTHER, CLIENT, alone=False)
    assert other.take(END)
    assert not alone.take(END)
    other.give_back()
    assert alone.take(END)
    assert not other.take(END)
    assert not Claim(ends, ONE, CLIENT, alone=True).take(END)
    alone.give_back()
    assert other.take(END)


def test_a_scope_is_no_part_of_an_end() -> None:
    ends = OwnEnds()
    assert Claim(ends, ONE, CLIENT, alone=False).take(("fe80::1%lo", 9))
    assert ("fe80::1", 9) in ends


def test_ends_that_the_system_has_chosen() -> None:
    ends = OwnEnds()
    ends.each = 1
    ends.add(END)
    ends.add(END)
    assert END in ends
    assert ends.is_full(END[0])
    ends.discard(END)
    assert not ends.is_full(END[0])


def test_what_comes_from_a_clients_own_end_is_the_clients() -> None:
    ends = OwnEnds()
    claim = Claim(ends, ONE, CLIENT, alone=False)
    end = ("192.0.2.9", 5060)
    assert claim.take(end)
    assert end not in ends
    assert not Claim(ends, ONE, CLIENT, alone=False).take(end)
    other = Claim(ends, OTHER, (bytes(4), 1), alone=False)
    assert other.take(end)
    assert end in ends
    other.give_back()
    claim.give_back()
    assert end not in ends
    assert Claim(ends, ONE, CLIENT, alone=True).take(end)
