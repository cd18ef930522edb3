"""Two journals side by side: frames of SQLite (`core.storage.journal`) and a log of our own (blending's).

    python -m noria.assistant.proof.bench_journal --folder FOLDER

Both acknowledge a frame after a sync that waiting callers share. For each number of callers and size of a frame the
two write in alternating rounds, each round a new journal in a folder of the same disk, while a second process reads
along. The rate is of acknowledged frames; the ratio is the median over pairs of rounds, with the smallest and the
largest.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from noria.blending.service.journal import journal as own
from noria.core.errors import RunError
from noria.core.storage import journal as core
from noria.core.storage.journal_file import JournalReader

CALLERS = (1, 16, 64)
SIZES = (600, 200_000)
KINDS = ("sqlite", "own")


class Round(NamedTuple):
    """Rates of one round in frames a second: what was acknowledged, and what the second process had read by then."""

    acknowledged: float
    read: float


class Comparison(NamedTuple):
    """One cell of the table: rounds of each journal, in the order in which they were paired."""

    callers: int
    size: int
    sqlite: tuple[Round, ...]
    own: tuple[Round, ...]

    @property
    def ratios(self) -> list[float]:
        """Rate of SQLite's journal over the other's, by pair of rounds, in order of size."""
        return sorted(
            one.acknowledged / other.acknowledged for one, other in zip(self.sqlite, self.own, strict=True)
        )


def compare(folder: Path, *, seconds: float, rounds: int) -> list[Comparison]:
    """Measure every cell.

    Args:
        folder: folder on the disk to measure.
        seconds: length of a round.
        rounds: number of rounds of each journal in a cell.
    """
    result = []
    for callers, size in itertools.product(CALLERS, SIZES):
        measured: dict[str, list[Round]] = {kind: [] for kind in KINDS}
        for number in range(rounds):
            for kind in KINDS if number % 2 == 0 else reversed(KINDS):
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    measured[kind].append(_round(kind, Path(place), callers, size, seconds))
        result.append(Comparison(callers, size, tuple(measured["sqlite"]), tuple(measured["own"])))
    return result


def table(comparisons: Sequence[Comparison]) -> str:
    """The comparison as a table in Markdown: median (smallest–largest)."""
    lines = [
        "| callers | frame | SQLite, frames/s | log of our own, frames/s | ratio | read along, SQLite / own |",
        "| --: | --: | --: | --: | --: | --: |",
    ]
    for one in comparisons:
        sides = [_spread([r.acknowledged for r in side], ",.0f") for side in (one.sqlite, one.own)]
        read = [statistics.median(r.read / r.acknowledged for r in side) for side in (one.sqlite, one.own)]
        lines.append(
            f"| {one.callers} | {one.size / 1000:g} kB | {sides[0]} | {sides[1]} | {_spread(one.ratios, '.2f')} |"
            f" {read[0]:.0%} / {read[1]:.0%} |"
        )
    return "\n".join(lines)


def follow(kind: str, folder: Path) -> None:
    """Read along until standard input ends, then print the number of frames that were read."""
    count, last, position = 0, 0, None
    os.set_blocking(0, False)
    while _open_input():
        try:
            if kind == "sqlite":
                with JournalReader(folder) as reader:
                    for frame in reader.frames(last):
                        count, last = count + 1, frame.sequence
            else:
                for entry in own.read_journal(folder, position):
                    count, position = count + 1, entry.end
        except RunError:  # it is not there yet
            pass
        time.sleep(0.02)
    print(count)


def _open_input() -> bool:
    try:
        return os.read(0, 1) != b""
    except BlockingIOError:
        return True


def _round(kind: str, folder: Path, callers: int, size: int, seconds: float) -> Round:
    command = [
        sys.executable,
        "-m",
        "noria.assistant.proof.bench_journal",
        "--follow",
        kind,
        "--folder",
        str(folder),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        journal: Any = core.Journal(folder) if kind == "sqlite" else own.Journal(folder)
        with journal:
            asyncio.run(_write(journal, callers, size, 0.3))  # the reader starts meanwhile
            began = time.perf_counter()
            frames = asyncio.run(_write(journal, callers, size, seconds))
            taken = time.perf_counter() - began
            text, _ = reader.communicate()
    total = frames / taken
    return Round(total, min(int(text) / taken, total))


async def _write(journal: Any, callers: int, size: int, seconds: float) -> int:
    """Append from many callers, each waiting for its acknowledgement; return the number of frames."""
    body, until, count = os.urandom(size), time.perf_counter() + seconds, 0

    async def caller() -> None:
        nonlocal count
        while time.perf_counter() < until:
            await journal.append(body)
            count += 1

    await asyncio.gather(*(caller() for _ in range(callers)))
    return count


def _spread(values: Sequence[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}}–{max(values):{form}})"


def main() -> None:
    """Measure, print the table, and write the rounds beside it where asked."""
    parser = argparse.ArgumentParser(description="Compare two journals, in alternating rounds.")
    parser.add_argument("--folder", type=Path, required=True, help="Folder on the disk to measure.")
    parser.add_argument("--seconds", type=float, default=1.0, help="Length of a round.")
    parser.add_argument("--rounds", type=int, default=5, help="Number of rounds of each journal in a cell.")
    parser.add_argument("--output", type=Path, help="File for the rounds as JSON.")
    parser.add_argument(
        "--follow", choices=KINDS, help="Read a journal along; the comparison starts this itself."
    )
    options = parser.parse_args()
    if options.follow:
        follow(options.follow, options.folder)
        return
    comparisons = compare(options.folder, seconds=options.seconds, rounds=options.rounds)
    print(table(comparisons))
    if options.output:
        options.output.write_text(json.dumps([one._asdict() for one in comparisons], indent=1) + "\n")


if __name__ == "__main__":
    main()
