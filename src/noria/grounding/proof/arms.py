"""The experiments of the proof: whole runs of the product against a server on loopback, one world a seed.

Clips are written as mp4 and decoded for real, frames go over HTTP to networks that were trained a moment before,
replies are parsed, reasons judged, answers scored.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noria.core.progress import Progress
from noria.core.runs.workers import report
from noria.grounding.asking.config import MediaSettings
from noria.grounding.asking.types import PROTOCOLS, Control, Protocol
from noria.grounding.scoring.config import ScoreSettings
from noria.grounding.synth.config import Knobs

__all__ = ["Scale", "run_adversary", "run_annotations", "run_leak", "run_reader", "run_world", "serving"]

FRAMES = 20
SEEN = {"width": 96, "height": 72, "fps": 5, "visibility": 0.7, "label_noise": 0.1}
SETTINGS = ScoreSettings(draws=100)


@dataclass(frozen=True)
class Scale:
    """Budgets of the experiments.

    Attributes:
        train, epochs: clips and passes over their frames, of the seer.
        test: clips that the models are asked about.
        colours: clips that the prejudiced model learns from.
        leak: clips of the experiment on leaked words.
        written: clips of the builder's experiment.
    """

    train: int
    epochs: int
    test: int
    colours: int
    leak: int
    written: int


@contextmanager
def serving(readers: Mapping[str, Any]) -> Iterator[str]:
    """A chat server on loopback behind which `readers` answer by name; gives the API's address."""
    from noria.core.service.hosting import running
    from noria.core.service.serving import HttpError, Limits, Request, Response, Service, json_response, route
    from noria.grounding.proof.perceiver import chat_reply

    async def chat(request: Request) -> Response:
        body = json.loads(await request.body())
        if body.get("model") not in readers:
            raise HttpError(404, "model_not_found", "no such model")
        return json_response(await asyncio.to_thread(chat_reply, body, readers))

    routes = [route("/v1/chat/completions", chat, methods=["POST"], access="open")]
    limits = Limits(body_bytes=64 << 20, seconds=600.0)
    with running(Service("models", routes, limits=limits, access_log=False)) as address:
        yield f"{address}/v1"


def run_world(seed: int, scale: dict[str, int]) -> dict[str, Any]:
    """One world: train, ask under every control, judge, score.

    Returns:
        {arm: {figure: value}}; arms are the models under protocols and controls.
    """
    import torch

    from noria.grounding.proof.perceiver import train_prejudiced, train_seer
    from noria.grounding.synth.world import make_corpus

    torch.set_num_threads(1)
    size = Scale(**scale)
    biased, even = Knobs(**SEEN, confounder=0.9), Knobs(**SEEN, confounder=0.0)
    scenes, _ = make_corpus(size.train, biased, seed=1000 + seed, prefix="train")
    seer = train_seer(
        scenes,
        biased,
        epochs=size.epochs,
        seed=seed,
        on_step=lambda n, of, loss: report(n, of, f"loss {loss:.2f}"),
    )
    colours, _ = make_corpus(size.colours, biased, seed=2000 + seed, prefix="colour")
    prejudiced = train_prejudiced(colours, biased, epochs=30, seed=seed)
    arms = {
        "seer": Arm("seer", "none", biased),
        "seer, black frames": Arm("seer", "black", biased),
        "seer, another clip's frames": Arm("seer", "shuffled", biased),
        "seer, frames reversed": Arm("seer", "reversed", biased),
        "seer, no frames": Arm("seer", "blind", biased),
        "prejudiced": Arm("prejudiced", "none", biased),
        "prejudiced, colours at random": Arm("prejudiced", "none", even),
    }
    results = {}
    with tempfile.TemporaryDirectory() as folder, serving({"seer": seer, "prejudiced": prejudiced}) as url:
        for place, (name, arm) in enumerate(arms.items()):
            report(place, len(arms), name)
            results[name] = _ask(Path(folder), url, arm, size.test, seed)
    return results


@dataclass(frozen=True)
class Arm:
    """A model in a world, under a control and a protocol."""

    model: str
    control: Control
    knobs: Knobs
    protocol: Protocol = "staged"

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        world = f"{self.knobs.confounder}-{self.knobs.leak}"
        return f"{self.model}-{self.protocol}-{self.control}-{world}"


def _ask(home: Path, url: str, arm: Arm, count: int, seed: int) -> dict[str, Any]:
    """One run through the product; its figures, and its states."""
    from noria.grounding.corpus.files import save_corpus
    from noria.grounding.results.scores import score_source
    from noria.grounding.results.sources import open_source
    from noria.grounding.synth.world import make_corpus
    from noria.grounding.verbs import judge, run, synth

    silent, seen = Progress(quiet=True), arm.control != "blind"
    clips = home / f"clips-{arm.knobs.confounder}-{arm.knobs.leak}"
    if seen:
        world = synth.SynthConfig(
            **arm.knobs.model_dump(), samples=count, seed=3000 + seed, output=str(clips)
        )
        synth.run(world, silent)
    else:
        save_corpus(make_corpus(count, arm.knobs, seed=3000 + seed)[1], clips / "annotations")
    folder = home / "runs" / arm.name
    config = run.RunConfig(
        data=clips / "annotations",
        videos=clips / "videos" if seen else None,
        url=url,
        model=arm.model,
        in_flight=4,
        timeout=600,
        protocol=arm.protocol,
        control=arm.control,
        frames=FRAMES,
        side=96,
        seed=seed,
        fallback=False,
        output=str(folder),
    )
    result = run.run(config, silent)
    judge.run(judge.JudgeConfig(source=folder, rubric="rules"), silent)
    scores = score_source(open_source(folder), SETTINGS)
    figures = {figure["name"]: figure["value"] for figure in scores["figures"]}
    return {"figures": figures, "states": dict(result.counts), "table": scores["table"]}


def run_leak(seed: int, scale: dict[str, int]) -> dict[str, Any]:
    """A reader of leaked words under the published protocol and under the staged one: {protocol: figures}."""
    from noria.grounding.proof.perceiver import LeakReader

    size = Scale(**scale)
    knobs = Knobs(leak=True, width=16, height=16, fps=1)
    with tempfile.TemporaryDirectory() as folder, serving({"leak": LeakReader()}) as url:
        arms = {name: Arm("leak", "blind", knobs, name) for name in PROTOCOLS[:2]}
        return {name: _ask(Path(folder), url, arm, size.leak, seed) for name, arm in arms.items()}


def run_adversary(seed: int, scale: dict[str, int]) -> dict[str, Any]:
    """The builder with a writer whose first drafts give answers away: {first, last, rewritten, questions}."""
    import msgspec

    from noria.core.chat import Answer, ChatRequest, Outcome
    from noria.grounding.asking.media import Cinema
    from noria.grounding.asking.prompts import evidence_text
    from noria.grounding.asking.store import SampleStore
    from noria.grounding.building.builder import build
    from noria.grounding.building.config import BuildSettings
    from noria.grounding.synth.world import make_corpus

    size = Scale(**scale)
    (_, clean), (_, drafts) = (
        make_corpus(size.written, Knobs(solvable=tell), seed=4000 + seed) for tell in (0.0, 0.8)
    )

    class Writer:
        """Writes SynthOCEAN's own analyses and questions; tells in the first drafts, none when asked again."""

        async def ask(self, request: ChatRequest) -> Outcome:
            text = request.messages[-1].text
            observed = next(r for r in clean if evidence_text(r.observations) in text)
            if "You explain given levels" in request.messages[0].text:
                rows = [
                    {name: getattr(a, name) for name in ("trait", "level", "rationale", "evidence")}
                    for a in observed.personality_analyses
                ]
                return Answer(json.dumps({"analyses": rows}))
            source = clean if "Write it anew" in text else drafts
            (record,) = source.only([observed.video_id])
            question = next(q for q in record.mcq_questions if f"of the kind {q.category}:" in text)
            right = question.correct
            assert right is not None
            wrong = [o.text for o in question.options if o is not right]
            return Answer(
                json.dumps({"question": question.question, "correct": right.text, "distractors": wrong})
            )

    clips = [msgspec.structs.replace(r, personality_analyses=(), mcq_questions=()) for r in clean]
    cinema = Cinema({r.video_id: r for r in clips}, None, MediaSettings())
    with tempfile.TemporaryDirectory() as folder, SampleStore(Path(folder)) as store:
        built = asyncio.run(build(clips, Writer(), cinema, store, BuildSettings(rounds=3, seed=seed)))
    return {
        "first": built.rounds[0],
        "last": built.rounds[-1],
        "rewritten": built.rewritten,
        "questions": sum(len(r.mcq_questions) for r in built.corpus),
        "dropped": sorted(set(built.dropped.values())),
    }


# -- on annotations that a user has -----------------------------------------------------------------------------------


def run_annotations(folder: str) -> dict[str, Any]:
    """The reference ladder on real records: {reader: {figure: [value, low, high]}}."""
    from noria.grounding.audit.adversary import blind_accuracy
    from noria.grounding.audit.readers import score_ladder
    from noria.grounding.corpus.files import load_corpus

    corpus = load_corpus(Path(folder))
    settings = ScoreSettings(bins="official", draws=1000)
    blind = blind_accuracy(corpus, on_category=lambda c: report(0, None, c))
    return {
        name: {f["name"]: [f["value"], f["low"], f["high"]] for f in scores["figures"]}
        for name, scores in score_ladder(corpus, blind, settings).items()
    }


def run_reader(folder: str, seed: int, epochs: int) -> dict[str, Any]:
    """A small reader trained from scratch on real records: with what was observed, observed elsewhere, and nothing.

    Returns:
        {arm: {category: share right}}, cross-validated with sources kept together.
    """
    from noria.grounding.corpus.files import load_corpus
    from noria.grounding.proof.reading import read_cross_validated

    corpus = load_corpus(Path(folder))
    return read_cross_validated(
        corpus, seed=seed, epochs=epochs, on_step=lambda n, of, note: report(n, of, note)
    )
