"""JSON in the words of a chat model: after its thinking, inside or outside a code fence."""

from __future__ import annotations

import json
import re
from typing import Any

from noria.core.errors import DataError
from noria.core.records import json_value

LONGEST_REPLY = 200_000
"""Characters of a reply that are read; what follows is left out."""


def json_in(reply: str) -> Any:
    """The JSON object or list in a reply; None where there is none.

    It begins at the first bracket after `</think>` that JSON can begin with, so that prose, a code fence, or words
    after it do no harm. NaN and the infinities are null. Half an object, numbers of thousands of digits and half
    characters make it None: what cannot be read whole is no answer.
    """
    text = reply[:LONGEST_REPLY].rpartition("</think>")[2]
    begin = _BEGIN.search(text)
    if begin is None:
        return None
    try:
        value, end = _DECODER.raw_decode(text, begin.start())
        json_value(text[begin.start() : end], "reply")  # within its bounds
    except (ValueError, RecursionError, DataError):
        return None
    return value


def object_in(reply: str) -> dict[str, Any] | None:
    """The JSON object in a reply; None where there is none, or a list."""
    value = json_in(reply)
    return value if isinstance(value, dict) else None


_BEGIN = re.compile(r'\{(?=\s*["}])|\[(?=\s*[\[{"\]0-9-])')
_DECODER = json.JSONDecoder(parse_constant=lambda name: None)
