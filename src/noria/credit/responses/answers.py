"""The answer of a response: finders of its characters, and the tokens that hold them.

A finder takes a response and returns the characters of its answer, or None where there is none. The last answer of a
response counts. A configuration names a finder: `boxed`, `tag`, `tag:final`, `hash`, `last-number`, `regex:…`, or
`auto`, which tries boxed, tag, hash and last-number in that order.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from noria.core.errors import ConfigError

__all__ = [
    "Finder",
    "Span",
    "answer_texts",
    "boxed",
    "finder",
    "hashes",
    "last_number",
    "matching",
    "tagged",
    "text_of",
    "token_span",
]

Span: TypeAlias = tuple[int, int]
"""The first place, and the place behind the last."""

Finder: TypeAlias = Callable[[str], Span | None]

LONGEST = 1 << 20  # characters of a response that are searched, from its end


def boxed(text: str) -> Span | None:
    r"""The content of the last `\boxed{…}` or `\fbox{…}` whose braces close."""
    for start in reversed([match.end() for match in re.finditer(r"\\f?box(?:ed)?\s*\{", text)]):
        depth = 1
        for place in range(start, len(text)):
            if text[place] in "{}" and (place == 0 or text[place - 1] != "\\"):
                depth += 1 if text[place] == "{" else -1
                if depth == 0:
                    return _bare(text, start, place)
    return None


def tagged(name: str = "answer") -> Finder:
    """A finder of the text between the last `<name>` that closes and its `</name>`."""
    opening, closing = f"<{name}>", f"</{name}>"

    def find(text: str) -> Span | None:
        stop = text.rfind(closing)
        start = text.rfind(opening, 0, max(0, stop))
        return None if start < 0 or stop < 0 else _bare(text, start + len(opening), stop)

    return find


def hashes(text: str) -> Span | None:
    """The rest of the line behind the last `####`, as in GSM8K."""
    start = text.rfind("####")
    if start < 0:
        return None
    stop = text.find("\n", start)
    return _bare(text, start + 4, len(text) if stop < 0 else stop)


def last_number(text: str) -> Span | None:
    """The last number: a sign, digits with commas, decimals, a fraction."""
    match = _last(re.finditer(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:/\d+)?", text))
    return None if match is None else (match.start(), match.end() - match[0].endswith(","))


def matching(pattern: str) -> Finder:
    """A finder of the last match of a regular expression, or of its first group where it has one.

    Raises:
        ConfigError: the pattern is not a regular expression.
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
    """The finder with a name, or the callable itself.

    Raises:
        ConfigError: there is no finder of that name.
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
    """The first of `boxed`, `<answer>`, `####` and the last number that finds an answer."""
    return boxed(text) or tagged()(text) or hashes(text) or last_number(text)


NAMED: dict[str, Finder] = {
    "auto": auto,
    "boxed": boxed,
    "tag": tagged(),
    "hash": hashes,
    "last-number": last_number,
}


def text_of(ids: Sequence[int], tokenizer: Any) -> str:
    """The text of token ids, without special tokens and otherwise unchanged."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def answer_texts(responses: Sequence[Sequence[int]], tokenizer: Any, find: str | Finder) -> list[str | None]:
    """The text of each response's answer, None where it has none."""
    texts, look = [text_of(ids, tokenizer) for ids in responses], finder(find)
    spans = [look(text) for text in texts]
    return [None if span is None else text[slice(*span)] for text, span in zip(texts, spans, strict=True)]


def token_span(ids: Sequence[int] | Tensor, tokenizer: Any, find: Finder) -> Span | None:
    """The tokens of a response's answer: every token that holds a character of it.

    Text is decoded from the ids themselves, never tokenised again, and a character of several tokens (an emoji in
    bytes) belongs to all of them.

    Args:
        ids: token ids of the response.
        tokenizer: tokenizer of the ids.
        find: finder of the answer's characters.
    """
    numbers = ids.tolist() if isinstance(ids, torch.Tensor) else list(ids)
    whole = text_of(numbers, tokenizer)
    cut = max(0, len(whole) - LONGEST)
    span = find(whole[cut:])
    if span is None:
        return None
    first, last = span[0] + cut, span[1] + cut
    if not 0 <= first < last <= len(whole):
        return None

    def settled(count: int) -> tuple[int, bool]:
        """Characters of the whole that the first `count` tokens settle, and whether they end inside another one."""
        part = text_of(numbers[:count], tokenizer)
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


def _last(matches: Iterable[re.Match[str]]) -> re.Match[str] | None:
    return next(iter(deque(matches, maxlen=1)), None)


def _bare(text: str, start: int, stop: int) -> Span | None:
    """The span without blanks at its ends; None where nothing is left."""
    while start < stop and text[start].isspace():
        start += 1
    while stop > start and text[stop - 1].isspace():
        stop -= 1
    return (start, stop) if start < stop else None
