"""Where a response says its answer: finders on text, and the tokens that a stretch of text is made of.

A finder takes a response and returns the characters of its answer, or None where there is none. The last answer of a
response counts. What stands in a config is a name: `boxed`, `tag`, `tag:final`, `hash`, `last-number`, `regex:…`, or
`auto`, which tries the first four in that order.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from noria.core.errors import ConfigError

__all__ = ["Finder", "Span", "boxed", "finder", "hashes", "last_number", "matching", "tagged", "token_span"]

Span: TypeAlias = tuple[int, int]
"""First and behind the last."""

Finder: TypeAlias = Callable[[str], Span | None]

LONGEST = 1 << 20  # characters of a response that are looked through, from its end


def boxed(text: str) -> Span | None:
    r"""What is in the last `\boxed{…}` or `\fbox{…}` whose braces close."""
    for start in reversed([match.end() for match in re.finditer(r"\\f?box(?:ed)?\s*\{", text)]):
        depth = 1
        for place in range(start, len(text)):
            if text[place] in "{}" and (place == 0 or text[place - 1] != "\\"):
                depth += 1 if text[place] == "{" else -1
                if depth == 0:
                    return _bare(text, start, place)
    return None


def tagged(name: str = "answer") -> Finder:
    """What is between the last `<name>` that closes and its `</name>`."""
    opening, closing = f"<{name}>", f"</{name}>"

    def find(text: str) -> Span | None:
        stop = text.rfind(closing)
        start = text.rfind(opening, 0, max(0, stop))
        return None if start < 0 or stop < 0 else _bare(text, start + len(opening), stop)

    return find


def hashes(text: str) -> Span | None:
    """What is behind the last `####` in its line, as of GSM8K."""
    start = text.rfind("####")
    if start < 0:
        return None
    stop = text.find("\n", start)
    return _bare(text, start + 4, len(text) if stop < 0 else stop)


def last_number(text: str) -> Span | None:
    """The last number: a sign, digits with commas, decimals, a fraction."""
    found = _last(re.finditer(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:/\d+)?", text))
    return None if found is None else (found.start(), found.end() - found[0].endswith(","))


def matching(pattern: str) -> Finder:
    """The last match of a regular expression, or its first group where it has one.

    Raises:
        ConfigError: it is none.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{pattern!r} is no regular expression ({error})", where="answer") from None

    def find(text: str) -> Span | None:
        last = _last(compiled.finditer(text))
        if last is None:
            return None
        return _bare(text, *last.span(1 if compiled.groups and last.start(1) >= 0 else 0))

    return find


def finder(name: str | Finder) -> Finder:
    """The finder of a name, or the callable itself.

    Raises:
        ConfigError: no such name.
    """
    if callable(name):
        return name
    kind, _, rest = name.partition(":")
    if kind == "regex" and rest:
        return matching(rest)
    if kind == "tag" and re.fullmatch(r"[\w-]*", rest):
        return tagged(rest or "answer")
    if name in NAMED:
        return NAMED[name]
    raise ConfigError(
        f"no answer finder {name!r}",
        where="answer",
        mend=f"choose from {', '.join(NAMED)}, tag:NAME, regex:PATTERN",
    )


def auto(text: str) -> Span | None:
    """The first of `boxed`, `<answer>`, `####` and the last number that is there."""
    return boxed(text) or tagged()(text) or hashes(text) or last_number(text)


NAMED: dict[str, Finder] = {
    "auto": auto,
    "boxed": boxed,
    "tag": tagged(),
    "hash": hashes,
    "last-number": last_number,
}


def token_span(ids: Sequence[int] | Tensor, tokenizer: Any, find: Finder) -> Span | None:
    """The tokens of a response's answer: every one that holds a character of it.

    Text is decoded from the ids themselves, never tokenised anew, and a character of several tokens (an emoji in bytes)
    is theirs together.

    Args:
        ids: of the response.
        tokenizer: that decodes them.
        find: the answer's characters.
    """
    numbers = ids.tolist() if isinstance(ids, torch.Tensor) else list(ids)

    def decoded(count: int) -> str:
        return str(
            tokenizer.decode(numbers[:count], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    whole = decoded(len(numbers))
    cut = max(0, len(whole) - LONGEST)
    span = find(whole[cut:])
    if span is None:
        return None
    first, last = span[0] + cut, span[1] + cut
    if not 0 <= first < last <= len(whole):
        return None

    def settled(count: int) -> tuple[int, bool]:
        """Characters of the whole that the first `count` tokens settle, and whether they end amid another one."""
        part = decoded(count)
        pairs = zip(part, whole, strict=False)
        same = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(part), len(whole)))
        return same, len(part) > same

    def fewest(characters: int) -> int:
        low, high = 0, len(numbers)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if settled(middle)[0] >= characters else (middle + 1, high)
        return low

    start = fewest(first + 1) - 1
    while start > 0 and settled(start)[1]:
        start -= 1
    return start, fewest(last)


def _last(found: Iterable[re.Match[str]]) -> re.Match[str] | None:
    return next(iter(deque(found, maxlen=1)), None)


def _bare(text: str, start: int, stop: int) -> Span | None:
    """Without blanks around it; None where nothing is left."""
    while start < stop and text[start].isspace():
        start += 1
    while stop > start and text[stop - 1].isspace():
        stop -= 1
    return (start, stop) if start < stop else None
