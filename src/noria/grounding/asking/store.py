"""Samples, kept so that being killed costs no more than the requests in flight.

A sample is a line of `samples.jsonl`, which only ever grows, before the next request is sent; the last line of an id
counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeAlias

from noria.core.chat import Answer, Failure, Outcome, Refusal
from noria.core.errors import DataError, RunError, needing
from noria.core.files import disk_errors, read_bytes, write_all, write_atomic

with needing("grounding"):
    import msgspec

Status: TypeAlias = Literal["ok", "parse_failed", "refused", "error"]


@dataclass(frozen=True)
class Sample:
    """The outcome of one step.

    Attributes:
        id: video and part.
        video, part: video and part of the step.
        status: exactly one of the four.
        numbers: numbers of the questions that it asks.
        reply: the model's text as it came, if any; it is read when it is scored.
        answers: {item: verdict or grade}, of a judge.
        rung: rung of the parsing ladder; 0 where nothing was read.
        problems: faults, in words.
        error: kind of failure, where the status is error.
        request: SHA-256 of what was asked.
        frames: SHA-256 of the frames that were sent.
        finish: why the answer ended.
        prompt_tokens, completion_tokens, cost: None where unknown.
        seconds, attempts: time and number of attempts of the request.
    """

    id: str
    video: str
    part: str
    status: Status
    numbers: list[int] = field(default_factory=list)
    reply: str = ""
    answers: dict[str, str] = field(default_factory=dict)
    rung: int = 0
    problems: list[str] = field(default_factory=list)
    error: str = ""
    request: str = ""
    frames: str = ""
    finish: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost: float | None = None
    seconds: float = 0.0
    attempts: int = 0


def answered(sample: Sample, outcome: Outcome) -> Sample:
    """The sample with what came of its request: `ok`, `refused` or `error`. What the reply says is yet to be read."""
    known = replace(sample, seconds=outcome.seconds, attempts=outcome.attempts)
    if isinstance(outcome, Failure):
        problems = [*sample.problems, outcome.message]
        return replace(known, status="error", error=outcome.kind, reply=outcome.partial, problems=problems)
    return replace(
        known,
        status="refused" if isinstance(outcome, Refusal) else "ok",
        reply=outcome.text,
        finish=outcome.finish or "" if isinstance(outcome, Answer) else "",
        prompt_tokens=outcome.usage.prompt_tokens,
        completion_tokens=outcome.usage.completion_tokens,
        cost=outcome.cost,
    )


class SampleStore:
    """The samples of a run folder, open for writing by one process. Use it as a context."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "samples.jsonl"
        self.mended: list[str] = []
        self._samples: dict[str, Sample] = {}
        self._spent = 0.0
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._cut_torn_line()
        for sample in _lines(self.path):
            self._take(sample)
        with disk_errors(self.path):
            self._log = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def __enter__(self) -> SampleStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._log)

    def put(self, sample: Sample) -> None:
        """Keep a sample; a later one of the same id takes its place.

        Raises:
            RunError: the disk refuses; nothing of the line is left behind.
        """
        with disk_errors(self.path):
            before = os.fstat(self._log).st_size
            try:
                write_all(self._log, _body(sample).encode() + b"\n")
            except OSError:
                os.ftruncate(self._log, before)
                raise
        self._take(sample)

    def statuses(self) -> dict[str, Status]:
        """{id: status} of all."""
        return {name: sample.status for name, sample in self._samples.items()}

    def get(self, identifier: str) -> Sample | None:
        """The sample of that id, if there is one."""
        return self._samples.get(identifier)

    def spent(self) -> float:
        """What all requests of all processes cost, as far as it is known; replaced samples count, too."""
        return self._spent

    def _take(self, sample: Sample) -> None:
        self._samples[sample.id] = sample
        self._spent += sample.cost or 0.0

    def _cut_torn_line(self) -> None:
        if not self.path.exists():
            return
        raw = read_bytes(self.path)
        whole = raw[: raw.rfind(b"\n") + 1]
        if len(whole) != len(raw):
            self.mended.append("a torn last line of samples.jsonl was cut")
            write_atomic(self.path, whole)


def _body(sample: Sample) -> str:
    text = json.dumps(vars(sample), ensure_ascii=False, separators=(",", ":"))
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:  # half a character, which a model can write and UTF-8 has no bytes for
        return json.dumps(vars(sample), separators=(",", ":"))
    return text


def _lines(path: Path) -> Iterator[Sample]:
    """Every line's sample.

    Raises:
        DataError: a line is none.
    """
    if not path.exists():
        return
    raw = read_bytes(path)
    for number, line in enumerate(raw.split(b"\n")[:-1], start=1):
        try:
            sample = msgspec.convert(json.loads(line), Sample)  # a reply may hold half a character
        except (msgspec.ValidationError, ValueError, RecursionError) as error:
            raise DataError(
                f"not a sample: {error}", where=f"{path}:{number}", mend="remove the line"
            ) from None
        yield sample


def read_samples(folder: Path) -> list[Sample]:
    """The samples of a run that another process may be writing: the last word on each, in the order of their ids.

    Raises:
        RunError: there are none.
        DataError: a line is damaged.
    """
    if not (folder / "samples.jsonl").is_file():
        raise RunError(
            "no samples here", where=str(folder), mend="give a folder that `noria grounding run` wrote"
        )
    last = {sample.id: sample for sample in _lines(folder / "samples.jsonl")}
    return [last[name] for name in sorted(last)]
