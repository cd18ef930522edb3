"""What may hide in the text of a skill: characters that are not seen, or that turn the order in which text is read."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
UNSEEN = "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180e\u200b\u2060\u2061\u2062\u2063\u2064\u3164\ufeff\uffa0"
_HIDDEN = re.compile(f"[{BIDI}{UNSEEN}\U000e0000-\U000e007f]")
_COMMANDS = re.compile(
    r"(?i)\b(?:ignore|disregard|forget|override)\b[^.\n]{0,40}\b(?:previous|prior|above|earlier|all|system)\b"
    r"[^.\n]{0,30}\b(?:instruction|prompt|rule|message)s?"
    r"|\b(?:reveal|print|exfiltrate)\b[^.\n]{0,30}\b(?:system prompt|secret|api key|credential|token)s?"
)
_ADDRESS = re.compile(r"(?i)\b(?:https?|ftp|wss?|file|ssh)://[^\s<>()\"'`]+|\bwww\.[^\s<>()\"'`]+")


@dataclass(frozen=True)
class Hidden:
    """A character that a reader does not see: its line, its column and its name."""

    line: int
    column: int
    name: str


def hidden_characters(text: str, *, most: int = 20) -> list[Hidden]:
    """The first characters of a text that are invisible or turn its direction; joiners inside emoji are not."""
    found = []
    for match in _HIDDEN.finditer(text):
        at = match.start()
        line = text.count("\n", 0, at) + 1
        column = at - text.rfind("\n", 0, at)
        found.append(Hidden(line, column, unicodedata.name(match[0], f"U+{ord(match[0]):04X}").lower()))
        if len(found) == most:
            break
    return found


def plain(text: str) -> str:
    """Text without hidden and control characters, each run of blanks one blank: for a line that goes into a skill."""
    text = _HIDDEN.sub("", unicodedata.normalize("NFC", text))
    text = "".join(c if c.isprintable() or c == "\n" else " " for c in text)
    return re.sub(r"[ \t]+", " ", text).strip()


def commands(text: str) -> list[str]:
    """Phrases that address a model over its user's head, such as "ignore all previous instructions"."""
    return [match[0] for match in _COMMANDS.finditer(text)]


def addresses(text: str) -> set[str]:
    """Hosts that a text names in addresses."""
    hosts = set()
    for match in _ADDRESS.finditer(text):
        rest = match[0].partition("://")[2] or match[0]
        hosts.add(
            re.split(r"[/:?#]", rest.rpartition("@")[2] if "@" in rest.split("/")[0] else rest)[0].lower()
        )
    return hosts


_WORD = re.compile(r"[\u4e00-\u9fff\u3040-\u30ff\uac00-\ud7af]|[^\W_]+(?:['’][^\W_]+)?")


def words(text: str) -> list[str]:
    """Words of a text in lower case; a character of Chinese, Japanese or Korean is a word."""
    return _WORD.findall(text.lower())


FILLERS = frozenset(
    words(
        "a an and are as at be by can do does for from has have how i if in is it its me my of on or our please "
        "so that the their them there these this to want was we what when where which who will with would you "
        "your"
    )
)
"""Words of English that tell no request from another."""
