"""Timed actions from SubRip (.srt), WebVTT (.vtt) and JSON files."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

from noria.core.errors import DataError
from noria.core.files import read_bytes

LARGEST_FILE = 1 << 20
MOST_ACTIONS = 50
LONGEST_CAPTION = 1000
_CUE = re.compile(
    r"(?:(\d+):)?(\d\d?):(\d\d)[.,](\d{3})\s*-->\s*(?:(\d+):)?(\d\d?):(\d\d)[.,](\d{3})(?:\s.*)?"
)


@dataclass(frozen=True)
class Action:
    """What the person does with the garment from `start` to `end`, in seconds of the source video."""

    start: float
    end: float
    caption: str

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start) and math.isfinite(self.end) and 0 <= self.start < self.end):
            raise ValueError(
                f"an action ends after it starts, and starts at 0 or later, not {self.start} to {self.end}"
            )
        if not self.caption.strip() or len(self.caption) > LONGEST_CAPTION:
            raise ValueError(f"a caption has 1 to {LONGEST_CAPTION} characters")


def read_actions(path: Path) -> list[Action]:
    """Read the actions of a clip, in order of their start.

    A JSON file is a list of `{"start": seconds, "end": seconds, "caption": text}`.

    Raises:
        DataError: the file cannot be read, is of another kind, or holds an action that is none.
    """
    try:
        text = read_bytes(path, limit=LARGEST_FILE).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("not UTF-8 text", where=str(path)) from error
    kind = path.suffix.lower()
    if kind == ".json":
        actions = _from_json(text, path)
    elif kind in (".srt", ".vtt"):
        actions = _from_cues(text.splitlines(), path)
    else:
        raise DataError("actions are read from .json, .srt and .vtt files", where=str(path))
    if len(actions) > MOST_ACTIONS:
        raise DataError(f"{len(actions)} actions; a clip has at most {MOST_ACTIONS}", where=str(path))
    return sorted(actions, key=lambda action: (action.start, action.end))


def _from_json(text: str, path: Path) -> list[Action]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON: {error}", where=str(path)) from error
    if not isinstance(rows, list):
        raise DataError("expected a list of actions", where=str(path))
    return [_from_row(row, f"{path}, action {number}") for number, row in enumerate(rows, 1)]


def _from_row(row: object, where: str) -> Action:
    if not isinstance(row, dict) or set(row) != {"start", "end", "caption"}:
        raise DataError("an action has start, end and caption", where=where)
    for name in ("start", "end"):
        if isinstance(row[name], bool) or not isinstance(row[name], int | float):
            raise DataError(f"{name} is not a number of seconds", where=where)
    if not isinstance(row["caption"], str):
        raise DataError("the caption is not text", where=where)
    return _action(row["start"], row["end"], row["caption"], where)


def _from_cues(lines: list[str], path: Path) -> list[Action]:
    """Cues of both formats: a line of times, then text up to an empty line."""
    actions, at = [], 0
    while at < len(lines):
        at += 1
        if "-->" not in lines[at - 1]:
            continue
        where, match = f"{path}:{at}", _CUE.fullmatch(lines[at - 1].strip())
        if match is None:
            raise DataError("expected HH:MM:SS.mmm --> HH:MM:SS.mmm", where=where)
        begin = at
        while at < len(lines) and lines[at].strip():
            at += 1
        times = [int(part or 0) for part in match.groups()]
        start, end = (h * 3600 + m * 60 + s + ms / 1000 for h, m, s, ms in (times[:4], times[4:]))
        actions.append(_action(start, end, " ".join(lines[begin:at]), where))
    return actions


def _action(start: float, end: float, caption: str, where: str) -> Action:
    try:
        return Action(float(start), float(end), caption.strip())
    except (ValueError, OverflowError) as error:
        raise DataError(str(error), where=where) from error
