"""The scanner finds the line of everything tomllib accepts, and never falls over it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udpproxy.config.lines import Path, line_of, locate

WHOLE = '''# comment = "no key"
top = 1
"quoted \\u0041.key" = 2
'literal' = """
fake = 1
[fake]
\\""" """"" # end
dotted . "in side".'x' = 'a'

[table]  # [not.this]
list = [ # a comment, with ] and "
  "one", 'two]', """three
  three""",

  { name = "x", sub.key = [ 1,
     2, ] },
]
day = 1979-05-27 07:32:00
lit = \'\'\'
[x]
\'\'\'
[[many]]
a = 1
[[many.inner]]
[[many.inner]]
b = { }
[many.table]
[[many]]
inner = [[], [[3]]]
'''


def places() -> dict[Path, int]:
    return {
        ("top",): 2,
        ("quoted A.key",): 3,
        ("literal",): 4,
        ("dotted",): 8,
        ("dotted", "in side"): 8,
        ("dotted", "in side", "x"): 8,
        ("table",): 10,
        ("table", "list"): 11,
        ("table", "list", 0): 12,
        ("table", "list", 1): 12,
        ("table", "list", 2): 12,
        ("table", "list", 3): 15,
        ("table", "list", 3, "name"): 15,
        ("table", "list", 3, "sub"): 15,
        ("table", "list", 3, "sub", "key"): 15,
        ("table", "list", 3, "sub", "key", 0): 15,
        ("table", "list", 3, "sub", "key", 1): 16,
        ("table", "day"): 18,
        ("table", "lit"): 19,
        ("many",): 22,
        ("many", 0): 22,
        ("many", 0, "a"): 23,
        ("many", 0, "inner"): 24,
        ("many", 0, "inner", 0): 24,
        ("many", 0, "inner", 1): 25,
        ("many", 0, "inner", 1, "b"): 26,
        ("many", 0, "table"): 27,
        ("many", 1): 28,
        ("many", 1, "inner"): 29,
        ("many", 1, "inner", 0): 29,
        ("many", 1, "inner", 1): 29,
        ("many", 1, "inner", 1, 0): 29,
        ("many", 1, "inner", 1, 0, 0): 29,
    }


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_kind_of_key_and_value(end: str) -> None:
    text = WHOLE.replace("\n", end)
    assert set(paths(tomllib.loads(text))) == set(places())
    assert locate(text) == places()


def test_the_nearest_place_stands_for_what_is_absent() -> None:
    lines = locate("\n[a]\nb = 1\n")
    assert line_of(lines, ("a", "b")) == 3
    assert line_of(lines, ("a", "missing", 0)) == 2
    assert line_of(lines, ("missing",)) == 1


def test_a_table_counts_from_its_own_header() -> None:
    assert locate("[a.b]\n[a]\nc = 1\n")[("a",)] == 2


def test_depth_costs_no_stack() -> None:
    assert locate("a = " + "[" * 1500 + "]" * 1500)[("a",)] == 1


@pytest.mark.parametrize("text", ['a = ["', "a = {", "a = [1", "[", "a", "]", 'a = """'])
def test_even_broken_text_comes_to_an_end(text: str) -> None:
    assert isinstance(locate(text), dict)


def paths(value: object, path: Path = ()) -> Iterator[Path]:
    items: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for key, inside in items:
        yield (*path, key)
        yield from paths(inside, (*path, key))


# Documents in which every key and every scalar is a number of its own, so that the place of each
# can be found by looking for it.
GAPS = st.sampled_from(["", " ", "\t", "\n", "# ] } , '''\n", ' # "\n\n'])
STRINGS = st.sampled_from(
    ['"{}"', "'{}'", '"""{}"""', '"""\n{}"""""', "'''{}\n# x'''", '"""{}\\\n  \\""""""', "1.{}e1"]
)


@st.composite
def values(draw: st.DrawFn, numbers: Iterator[int], depth: int) -> str:
    kind = draw(st.sampled_from(["text", "list", "table"] if depth else ["text"]))
    if kind == "text":
        return draw(STRINGS).format(next(numbers))
    count = draw(st.integers(0, 3))
    if kind == "list":
        items = [
            draw(GAPS) + draw(values(numbers, depth - 1)) + draw(GAPS) + "," for _ in range(count)
        ]
        return "[" + "".join(items) + draw(GAPS) + "]"
    pairs = [f"{draw(keys(numbers))} = {draw(values(numbers, depth - 1))}" for _ in range(count)]
    return "{ " + ", ".join(pairs) + "}"


@st.composite
def keys(draw: st.DrawFn, numbers: Iterator[int]) -> str:
    shapes = st.sampled_from(["k{}", '"k{}"', "'k{}'", '"\\u006b{}"'])
    parts = [draw(shapes).format(next(numbers)) for _ in range(draw(st.integers(1, 2)))]
    return draw(st.sampled_from([".", " . "])).join(parts)


@st.composite
def documents(draw: st.DrawFn) -> str:
    numbers = iter(range(1000, 9999))
    statements: list[str] = []
    many = f"k{next(numbers)}"
    for _ in range(draw(st.integers(0, 6))):
        kind = draw(st.sampled_from(["pair", "pair", "table", "many", "below"]))
        if kind == "pair":
            statements.append(f"{draw(keys(numbers))} = {draw(values(numbers, 3))}")
        elif kind == "table":
            statements.append(f"[ {draw(keys(numbers))} ]")
        elif kind == "many":
            statements.append(f"[[{many}]]")
        elif f"[[{many}]]" in statements:
            statements.append(f"[{many}.{draw(keys(numbers))}]")
        statements.append(draw(st.sampled_from(["", "  # it's", "\n\n", "\r\n"])))
        statements.append("\n")
    return "".join(statements)


@settings(deadline=None)
@given(documents())
def test_whatever_tomllib_accepts_is_found_at_its_place(text: str) -> None:
    lines = locate(text)
    text = text.replace("\r\n", "\n")
    data = tomllib.loads(text)
    assert set(lines) == set(paths(data))
    for path, line in lines.items():
        own = path[-1]
        if isinstance(own, str) and text.count(own[1:]) == 1:
            assert line == text[: text.index(own[1:])].count("\n") + 1


@settings(deadline=None)
@given(st.text(alphabet="ab.=[]{}\"'#,\\ \n1", max_size=40))
def test_any_text_that_tomllib_accepts(text: str) -> None:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    assert set(locate(text)) == set(paths(data))
