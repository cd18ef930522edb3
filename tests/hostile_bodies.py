"""Bodies that no honest client sends, for every JSON endpoint of the project."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

LITERALS = (
    b"null", b"true", b"0", b"-1", b"1.5", b"1e308", b"-1e308", b"5e-324", b"1e999", b"-1e999", b"NaN", b"Infinity",
    b"9" * 400, b"-" + b"9" * 400, b"9" * 5000, b"0." + b"9" * 5000, b"18446744073709551616", b"-9223372036854775809",
    b'""', b'"x"', b'"\\u0000"', b'"\\ud800"', b'"a\\udfffb"', b'"\xed\xa0\x80"', b'"\xff"', b'"\\u2028\x7f"',
    b'"' + b"x" * 20_000 + b'"', b"[]", b"[[]]", b"[null]", b"[1, \"a\", null]", b"{}", b'{"": 1}', b'{"a": {"b": []}}',
    b'{"names": ["a", "a"], "codes": [0]}', b'{"names": [], "codes": [99999999999999999999]}',
    b'{"names": ["a"], "codes": [[0]]}', b'{"names": ["a"], "codes": [0.5]}', b"[" * 3000 + b"]" * 3000,
    b'{"a":' * 3000 + b"1" + b"}" * 3000, b"[1e400]", b"[" + b"9" * 400 + b"]", b'[["a", "\\ud800"]]', b"tru",
    b"'x'", b"",
)  # fmt: skip
"""JSON, and nearly JSON, that a parser or what comes behind it may stumble over."""

_HERE = "here-is-what-is-hostile"


def hostile_bodies(body: Any) -> Iterator[bytes]:
    """The body with each of its values, one at a time, replaced by each hostile one; and hostile bodies alone."""
    yield from LITERALS
    yield from (b"\xef\xbb\xbf" + json.dumps(body).encode(), json.dumps(body).encode("utf-16"))
    for place in _places(body):
        changed = copy.deepcopy(body)
        at = changed
        for key in place[:-1]:
            at = at[key]
        at[place[-1]] = _HERE
        text = json.dumps(changed).encode()
        yield from (text.replace(f'"{_HERE}"'.encode(), literal) for literal in LITERALS)
        if isinstance(at, dict):
            del at[place[-1]]
            yield json.dumps(changed).encode()


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values in a body; of long lists the first two."""
    if place:
        yield place
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _places(inner, (*place, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value[:2]):
            yield from _places(inner, (*place, number))
