"""Speed of scoring against a straightforward scorer, of the bootstrap against resampling one draw at a time, and of the
client against what a server on loopback can give.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from noria.core.proofs.bench import Benchmark, Row
    from noria.grounding.asking.protocols import Chain
    from noria.grounding.corpus.records import Corpus
    from noria.grounding.scoring.predictions import Prediction

VIDEOS = 1104
DRAWS = 2000
LATENCY = 1.0
IN_FLIGHT = 64


def benchmarks(*, rounds: int = 5) -> Benchmark:
    """Load and score 1,104 records; 27 thresholds under 2,000 draws; requests a second with 64 in flight.

    Args:
        rounds: timed turns of each side.
    """
    from noria.core.proofs.bench import Benchmark

    with tempfile.TemporaryDirectory() as folder:
        rows = [*_scoring(Path(folder), rounds), _bootstrap(rounds)]
        rows.append(_client(Path(folder), max(2, rounds // 2)))
    return Benchmark("grounding", rows)


def _predictions(corpus: Corpus) -> list[Prediction]:
    """Answers half of which are right, with judgements."""
    import numpy as np

    from noria.grounding.corpus.types import DIMENSIONS, LEVELS, TRAITS
    from noria.grounding.scoring.predictions import Prediction

    generator = np.random.default_rng(0)
    text = "Two sentences about what was seen. And when it was seen."
    return [
        Prediction(
            record.video_id,
            {t: LEVELS[int(generator.integers(5))] for t in TRAITS},
            dict.fromkeys(TRAITS, text),
            {
                n: q.correct_answer if generator.random() < 0.5 else "C"
                for n, q in enumerate(record.mcq_questions, start=1)
            },
            {t: {d: int(generator.integers(4, 11)) for d in DIMENSIONS} for t in TRAITS},
        )
        for record in corpus
    ]


def _scoring(folder: Path, rounds: int) -> list[Row]:
    """Load and score files on both sides, all figures; at one setting, and at 27.

    Once is bound by reading JSON on both sides; what scoring itself costs shows over the settings of the sweep.
    """
    from noria.core.proofs.bench import Row, alternate
    from noria.grounding.corpus.files import load_keys, save_corpus
    from noria.grounding.scoring.official import read_lines, read_truth, score_official
    from noria.grounding.scoring.predictions import load_predictions, marks_of, save_predictions, truth_of
    from noria.grounding.scoring.rates import DEFAULT, SWEEP, Theta, measures, passes, rates
    from noria.grounding.synth.world import make_corpus

    corpus = make_corpus(VIDEOS)[1]
    save_corpus(corpus, folder / "annotations")
    save_predictions(folder / "predictions.jsonl", _predictions(corpus))

    def ours(settings: Sequence[Theta]) -> None:
        keys = load_keys(folder / "annotations")
        truth, marks = truth_of(keys), marks_of(keys, load_predictions(folder / "predictions.jsonl"))
        _ = [r.value for r in measures(truth, marks)]
        for theta in settings:
            _ = [r.value for r in rates(passes(truth, marks, theta))]

    def theirs(settings: Sequence[Theta]) -> None:
        truth, lines = read_truth(folder / "annotations"), read_lines(folder / "predictions.jsonl")
        for t in settings:
            at = (float(t.rating), float(t.reasoning), float(t.grounding))
            score_official(truth, lines, thresholds=at)

    rows = []
    for name, settings, goal in (("", (DEFAULT,), 1.0), (" at 27 thresholds", SWEEP, 3.0)):
        timing = alternate(lambda s=settings: ours(s), lambda s=settings: theirs(s), rounds=rounds)  # type: ignore[misc]
        title = f"load and score {VIDEOS:,} records{name}"
        rows.append(
            Row.of(title, "video by video", "s", timing.ours, timing.theirs, better="lower", goal=goal)
        )
    return rows


def _bootstrap(rounds: int) -> Row:
    """Four rates at 27 settings under 2,000 draws of sources; the peer does 20 draws, and its time is times 100."""
    import numpy as np

    from noria.core.proofs.bench import Row, alternate
    from noria.grounding.scoring.intervals import bootstrap, cluster_weights
    from noria.grounding.scoring.predictions import truth_of
    from noria.grounding.scoring.rates import SWEEP, Marks, passes, rates
    from noria.grounding.scoring.views import guesses
    from noria.grounding.synth.world import make_corpus

    truth = truth_of(make_corpus(VIDEOS)[1])
    generator = np.random.default_rng(0)
    guess = guesses(truth, generator)
    keep = generator.random(truth.levels.shape) < 0.5
    hold = generator.random(truth.answer.shape) < 0.5
    marks = Marks(
        np.where(keep, truth.levels, guess.levels),
        np.where(hold, truth.answer, guess.answers),
        np.ones(truth.levels.shape, bool),
        generator.uniform(4, 10, size=(*truth.levels.shape, 4)),
    )

    def ours() -> None:
        ratios = [ratio for theta in SWEEP for ratio in rates(passes(truth, marks, theta))]
        bootstrap(ratios, truth.sources, cluster_weights(truth.sources, DRAWS, np.random.default_rng(1)))

    members = [np.flatnonzero(truth.sources == s) for s in range(int(truth.sources.max()) + 1)]

    def theirs() -> None:
        draws = np.random.default_rng(1)
        passed = [passes(truth, marks, theta) for theta in SWEEP]
        for _ in range(DRAWS // 100):
            picked = np.concatenate([members[s] for s in draws.integers(len(members), size=len(members))])
            for p in passed:
                r1, r2, r3 = p.rating[picked], p.reasoning[picked], p.grounding[picked]
                _ = [np.mean(~r3[r1]), np.mean(~r2[r1]), np.mean(~r1[r3]), np.mean(r1 & r2 & r3)]

    timing = alternate(ours, theirs, rounds=rounds)
    name = f"{len(SWEEP)} thresholds, {DRAWS:,} draws"
    scaled = [100 * seconds for seconds in timing.theirs]
    return Row.of(name, "draw by draw", "s", timing.ours, scaled, better="lower", goal=10.0)


def _client(folder: Path, rounds: int) -> Row:
    """Samples a second of a run against a server of another process that answers each request after a second."""
    from noria.core.chat import ChatClient, ChatServer
    from noria.core.proofs.bench import Row
    from noria.core.service.hosting import launched
    from noria.grounding.asking.config import AskSettings, MediaSettings
    from noria.grounding.asking.media import Cinema
    from noria.grounding.asking.protocols import plan
    from noria.grounding.asking.runner import run_plan
    from noria.grounding.asking.store import SampleStore
    from noria.grounding.synth.world import make_corpus

    corpus = make_corpus(16 * IN_FLIGHT)[1]
    every = [chain for chain in plan(corpus, AskSettings()) if chain[0].numbers]
    with launched([sys.executable, "-m", "noria.grounding.proof.bench"], folder) as server:

        async def go(turn: int, chains: Sequence[Chain]) -> float:
            cinema = Cinema({r.video_id: r for r in corpus}, None, MediaSettings())
            at = ChatServer(url=f"{server.url}/v1", model="m", in_flight=IN_FLIGHT)
            async with ChatClient(at) as client:
                with SampleStore(folder / f"run-{turn}") as store:
                    began = time.perf_counter()
                    asking = AskSettings(control="blind")
                    counts = await run_plan(
                        chains, corpus, client, cinema, store, asking, in_flight=IN_FLIGHT
                    )
                    seconds = time.perf_counter() - began
            assert counts["ok"] == len(chains)
            return len(chains) / seconds

        asyncio.run(go(0, every[: 2 * IN_FLIGHT]))  # imports, and the server's first connections
        ours = [asyncio.run(go(turn, every)) for turn in range(1, rounds + 1)]
    theirs = [IN_FLIGHT / LATENCY] * rounds
    name = f"samples a second, {IN_FLIGHT} in flight"
    return Row.of(name, "the server's most", "1/s", ours, theirs, better="higher", goal=0.95)


def _serve() -> None:
    """A server that answers every question with C after `LATENCY` seconds, however many are under way."""
    import re

    from noria.core.chat import Answer
    from noria.core.completions.answers import completion
    from noria.core.service.hosting import serve
    from noria.core.service.serving import Limits, Request, Response, Service, json_response, route

    async def chat(request: Request) -> Response:
        body = json.loads(await request.body())
        await asyncio.sleep(LATENCY)
        numbers = re.findall(r"^Question (\d+)", body["messages"][-1]["content"], flags=re.MULTILINE)
        text = json.dumps({"task3": [{"q_idx": int(n), "answer": "C"} for n in numbers]})
        return json_response(completion("m", Answer(text)))

    routes = [route("/v1/chat/completions", chat, methods=["POST"], access="open")]
    serve(Service("stub", routes, limits=Limits(in_flight=4 * IN_FLIGHT), access_log=False), port=0)


if __name__ == "__main__":
    _serve()
