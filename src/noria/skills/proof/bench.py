"""Speed of `noria.skills` beside its peers: routing, thresholds, evaluation from the cache, validation.

semantic-router and skills-ref live in an environment of their own, since they pin what others need otherwise:

    python3.11 -m venv ~/.cache/noria/assets/peers/semantic-router
    ~/.cache/noria/assets/peers/semantic-router/bin/pip install -r bench_peer.txt        (beside this module)

Both routers have the same encoder, routes and queries; the peer's process times itself, so that the pipe costs nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from noria.core.assets import cache_folder
from noria.core.errors import RunError
from noria.core.progress import Progress
from noria.core.proofs.bench import Benchmark, Row
from noria.skills.assistants.assistants import CachedAssistant
from noria.skills.bank.reading import read_skills
from noria.skills.bank.skill import make_skill
from noria.skills.proof.simulator import ObedientAssistant
from noria.skills.proof.world import KNOWN, PHRASES, first_bank
from noria.skills.routing.calibration import fit_thresholds
from noria.skills.routing.encoders import StaticEncoder
from noria.skills.routing.routers import EmbeddingRouter
from noria.skills.traffic.samples import Sample

QUERIES, SKILLS = 200, 5000
PEER = "semantic-router"


def benchmarks(*, rounds: int = 5) -> Benchmark:
    """Every figure; those against peers that are not installed are left out, and the log says so."""
    rows = [*_thresholds(rounds), _cached(rounds)]
    with tempfile.TemporaryDirectory() as temporary, _peer() as ask:
        if ask is None:
            Progress().say(f"the peers are left out: there is no {_python()}, made as this module says")
        else:
            rows += _routing(ask, rounds)
            rows.append(_validation(ask, Path(temporary), rounds))
    return Benchmark("skills", rows)


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _paired(
    ours: Callable[[], object], theirs: Callable[[], float], rounds: int
) -> tuple[list[float], list[float]]:
    """Seconds of both sides in alternation, after one turn that is not counted."""
    pairs = [(_seconds(ours), theirs()) for _ in range(rounds + 1)][1:]
    return [a for a, _ in pairs], [b for _, b in pairs]


# -- without a peer's package -----------------------------------------------------------------------------------------


def _thresholds(rounds: int) -> Iterator[Row]:
    """The exact fit, against 500 random draws as semantic-router 0.1 makes them, and against the same with numpy."""
    generator = np.random.default_rng(0)
    scores = generator.random((720, 6))
    labels = generator.integers(-1, 6, 720)
    top = scores.argmax(axis=1)
    best = scores[np.arange(720), top]

    def drawn(count: int) -> float:
        found = 0.0
        for _ in range(count):
            bars = generator.random(6)
            right = 0
            for route, score, label in zip(top.tolist(), best.tolist(), labels.tolist(), strict=True):
                right += (route if score >= bars[route] else -1) == label
            found = max(found, right / 720)
        return found

    def vectorised() -> float:
        bars = generator.random((500, 6))
        chosen = np.where(best >= bars[:, top], top, -1)
        return float((chosen == labels).mean(axis=1).max())

    for name, rival, goal in (
        ("500 random draws in Python, as semantic-router 0.1 searches", lambda: drawn(500), 100.0),
        ("500 random draws in numpy", vectorised, 1.0),
    ):
        ours, theirs = _paired(lambda: fit_thresholds(scores, labels), lambda r=rival: _seconds(r), rounds)  # type: ignore[misc]
        title = "thresholds of 6 routes on 720 queries (exact)"
        yield Row.of(title, name, "s", ours, theirs, better="lower", goal=goal)


def _cached(rounds: int) -> Row:
    """An evaluation whose bodies did not change, from the cache, against the first time."""
    bank, assistant = first_bank(), ObedientAssistant(0)
    samples = [Sample(f"s{n}", f"request {n}", f"g{n}", (KNOWN[n % 6],), cards=False) for n in range(1000)]
    skills = [s.expected[0] for s in samples]

    # A model takes its time; .5 ms an answer is far below what any takes.
    class Slow:
        name = "slow"

        def answer(self, asked: Sequence[Sample], under: Sequence[str | None], of: Any) -> Any:
            time.sleep(0.0005 * len(asked))
            return assistant.answer(asked, under, of)

    kept = CachedAssistant(Slow())
    kept.answer(samples, skills, bank)
    ours, theirs = _paired(
        lambda: kept.answer(samples, skills, bank),
        lambda: _seconds(lambda: CachedAssistant(Slow()).answer(samples, skills, bank)),
        rounds,
    )
    title = "evaluation of 1,000 answers again, nothing changed"
    return Row.of(title, "the first time, .5 ms an answer", "s", ours, theirs, better="lower", goal=50.0)


# -- against the peers ------------------------------------------------------------------------------------------------


def _routing(ask: Callable[..., Any], rounds: int) -> list[Row]:
    described = {name: "; ".join(PHRASES[name][::2]).replace("{x}", "thing") for name in KNOWN}
    pairs = [(p.format(x="blue vase"), name) for name in KNOWN for p in PHRASES[name][1::2]]
    pairs = (pairs * (QUERIES // len(pairs) + 1))[:QUERIES]
    queries, labels = [q for q, _ in pairs], [label for _, label in pairs]
    ask(do="make", routes={name: text.split("; ") for name, text in described.items()})
    router = EmbeddingRouter(described, StaticEncoder())
    rows = []
    for title, goal, ours, theirs in (
        ("routing of 200 queries one by one", 5.0, lambda: [router.choose([q]) for q in queries],
         lambda: ask(do="one", queries=queries)),
        ("routing of 200 queries at once", 10.0, lambda: router.choose(queries),
         lambda: ask(do="batch", queries=queries, labels=labels)),
    ):  # fmt: skip
        mine, peers = _paired(ours, theirs, rounds)
        rows.append(Row.of(title, "semantic-router 1.1.1", "s", mine, peers, better="lower", goal=goal))
    return rows


def _validation(ask: Callable[..., Any], folder: Path, rounds: int) -> Row:
    for number in range(SKILLS):
        name = f"skill-{number}"
        (folder / name).mkdir()
        made = make_skill(
            name, f"Does thing {number}. Use it when thing {number} is wanted.", "# Do\n\nDo it.\n" * 20
        )
        (folder / name / "SKILL.md").write_bytes(made.source)
    ours, theirs = _paired(
        lambda: all(verdict.ok for verdict in read_skills(folder)),
        lambda: ask(do="validate", folder=str(folder)),
        min(rounds, 3),
    )
    title = f"validation of {SKILLS:,} skills, their bodies and links too"
    return Row.of(title, "skills-ref 0.1.1, frontmatters alone", "s", ours, theirs, better="lower", goal=1.0)


def _python() -> Path:
    return cache_folder() / "peers" / PEER / "bin" / "python"


@contextlib.contextmanager
def _peer() -> Iterator[Callable[..., Any] | None]:
    """A way to ask the peers' process; None where their environment is not there."""
    python = _python()
    if not python.is_file():
        yield None
        return
    source = str(Path(__file__).parents[3])
    process = subprocess.Popen(
        [str(python), "-m", "noria.skills.proof.bench_peer"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": source},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    given, taken = process.stdin, process.stdout

    def ask(**fields: Any) -> Any:
        given.write(json.dumps(fields) + "\n")
        given.flush()
        line = taken.readline()
        if not line:
            raise RunError("the peers' process ended", where=str(python))
        return json.loads(line)

    try:
        yield ask
    finally:
        given.close()
        process.wait(20)
