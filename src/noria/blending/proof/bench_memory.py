"""Memory of the verbs that read and write logs: most memory of a process, on a log and on one ten times as long."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from noria.core.errors import RunError

if TYPE_CHECKING:
    from noria.core.proofs.bench import Row

REQUESTS, CANDIDATES = 20_000, 20
"""Size of the smaller log: more than `simulate` holds at a time, and enough exposures to fill DuckDB's memory."""
MOST = REQUESTS * CANDIDATES // 2
"""Candidates that `attribute` and `replay` sample, so that both logs are larger."""
GROWTH = 1.3
"""Most growth of memory on ten times the log."""


def memory_rows(rounds: int) -> list[Row]:
    """Most memory of each verb on a log and on one ten times as long, each in a process of its own."""
    from noria.core.proofs.bench import Row

    rows = []
    with tempfile.TemporaryDirectory(prefix="noria-") as folder:
        small, large = (_peaks(Path(folder), requests) for requests in (REQUESTS, 10 * REQUESTS))
    for verb, peak in small.items():
        name = f"memory of {verb}, {10 * REQUESTS * CANDIDATES:,} candidates"
        rows.append(
            Row.of(name, "a tenth of the log", "MB", [large[verb]], [peak], better="lower", goal=1 / GROWTH)
        )
    return rows


def _peaks(folder: Path, requests: int) -> dict[str, float]:
    log = folder / str(requests)
    both = ["--exposures", f"{log}/exposures", "--outcomes", f"{log}/outcomes", "-q"]
    sampled = ["--candidates", f"{log}/candidates", "--most", str(MOST)]
    verbs = {
        "simulate": ["-o", str(log), "--requests", str(requests), "--candidates", str(CANDIDATES)],
        "fit": [*both, "--plans", f"{log}/plans.yaml", "-o", f"{log}-fit"],
        "attribute": [
            f"{log}/snapshots",
            *both,
            *sampled,
            "--gain",
            "expected_gain",
            "-o",
            f"{log}-attribute",
        ],
        "replay": [f"{log}/snapshots/00000001.json", *sampled, "-o", f"{log}-replay"],
    }
    return {verb: _peak([verb, *words]) for verb, words in verbs.items()}


def _peak(words: list[str]) -> float:
    """Most memory of a verb's process, in MB.

    Raises:
        RunError: the verb failed.
    """
    command = [sys.executable, "-c", "from noria.cli import main; main()", "blending", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise RunError("a verb whose memory is measured failed", where=" ".join(command[3:5]))
    return usage.ru_maxrss / 1024
