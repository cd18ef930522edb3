"""Pictures that a tool made, in a chat or by itself: what was asked for, what came of it, and what people said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from noria.core.errors import DataError
from noria.core.learning.dataset import Row
from noria.core.records import json_value
from noria.core.traces.blobs import blob_names
from noria.core.traces.records import Span


@dataclass(frozen=True)
class PictureCall:
    """One call of a tool that made a picture.

    Attributes:
        trace: id of the trace.
        group: leakage group of the request.
        prompt: what was asked of the tool.
        picture: digest of what it made.
        before: digest of the picture that was edited; None where one was made anew.
        plan, thinking: what a planner wrote; empty where the tool did not tell.
        score: what people and judges said of the answer, 0 to 1; None where nobody did.
        wished: what the answer should have been by the last correction; empty where nobody said.
        contents: what the request may share with requests of other groups.
    """

    trace: str
    group: str
    prompt: str
    picture: str
    before: str | None
    plan: str
    thinking: str
    score: float | None
    wished: str
    contents: tuple[str, ...] = ()


def picture_calls(rows: Iterable[Row], tool: str) -> list[PictureCall]:
    """The calls of a tool that gave a picture, oldest first."""
    found = []
    for row in rows:
        if row.asked is None:
            continue
        asked = row.asked
        for span in row.view.trace.spans:
            if span.kind == "tool" and span.name == tool and span.error is None and (made := _made(span)):
                prompt, picture, before, notes = made
                found.append(
                    PictureCall(
                        row.view.trace.id, asked.group, prompt, picture, before,
                        notes.get("plan", ""), notes.get("thinking", ""), asked.score,
                        asked.corrections[-1].strip() if asked.corrections else "", asked.contents,
                    )
                )  # fmt: skip
    return found


def distinct(calls: Sequence[PictureCall]) -> list[PictureCall]:
    """The calls that ask for different things: of the same request for the same picture, the last."""
    return list({(one.before, one.prompt): one for one in calls}.values())


def _made(span: Span) -> tuple[str, str, str | None, dict[str, str]] | None:
    """Prompt, digest of the first picture, of the one before it, and notes of a call.

    None where the trace holds no texts, or no picture. A call in a conversation keeps the edited picture behind the one
    that it made; a tool that was asked by itself has it in its request. What a mask bounds is no edit of this kind.
    """
    given, gave = span.input, span.output
    if not isinstance(given, dict) or not isinstance(gave, dict) or "mask" in given:
        return None
    files = list(blob_names(gave.get("files")))
    if "arguments" in given:
        try:
            arguments = json_value(str(given["arguments"]), "arguments")
        except DataError:
            return None
        before = files[1:2]
    else:
        arguments, before = given, list(blob_names(given.get("images")))
    prompt = arguments.get("prompt") if isinstance(arguments, dict) else None
    if not isinstance(prompt, str) or not prompt.strip() or not files or len(before) > 1:
        return None
    return prompt, files[0], next(iter(before), None), dict(gave.get("notes") or {})
