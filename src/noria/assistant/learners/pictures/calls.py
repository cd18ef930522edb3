"""Pictures that a tool made in conversations: what was asked for, what came of it, and what people said."""

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
    """The calls of a tool that gave a picture, oldest first.

    A picture that was asked for apart from a conversation has no leakage group, and is left out.
    """
    found = []
    for row in rows:
        if row.example is None:
            continue
        corrections = row.example.corrections
        for span in row.view.trace.spans:
            if span.kind == "tool" and span.name == tool and span.error is None and (made := _made(span)):
                prompt, files, notes = made
                found.append(
                    PictureCall(
                        row.view.trace.id, row.example.group, prompt, files[0],
                        files[1] if len(files) > 1 else None,
                        notes.get("plan", ""), notes.get("thinking", ""), row.example.score,
                        corrections[-1].strip() if corrections else "", row.example.contents,
                    )
                )  # fmt: skip
    return found


def distinct(calls: Sequence[PictureCall]) -> list[PictureCall]:
    """The calls that ask for different things: of the same request for the same picture, the last."""
    return list({(one.before, one.prompt): one for one in calls}.values())


def _made(span: Span) -> tuple[str, list[str], dict[str, str]] | None:
    """Prompt, digests of the files and notes of a call; None where the trace holds no texts, or no picture."""
    given, gave = span.input, span.output
    if not isinstance(given, dict) or not isinstance(gave, dict):
        return None
    try:
        arguments = json_value(str(given.get("arguments")), "arguments")
    except DataError:
        return None
    files = list(blob_names(gave.get("files")))
    prompt = arguments.get("prompt") if isinstance(arguments, dict) else None
    if not isinstance(prompt, str) or not prompt.strip() or not files:
        return None
    return prompt, files, dict(gave.get("notes") or {})
