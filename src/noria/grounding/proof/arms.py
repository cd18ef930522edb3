"""The experiments of the proof: whole runs of the product against a server on loopback, one world a seed.

Clips are written as mp4 and decoded for real, frames go over HTTP to networks that were trained a moment before,
replies are parsed, reasons judged, answers scored. All models of a world learn from the same clips; what is free in
them was chosen by `tuning`, on seeds that are not judged.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noria.core.progress import Progress
from noria.core.runs.workers import report
from noria.grounding.asking.config import MediaSettings
from noria.grounding.asking.types import Control, Protocol
from noria.grounding.corpus.records import Corpus, each_question
from noria.grounding.scoring.config import ScoreSettings
from noria.grounding.synth.config import Knobs

if TYPE_CHECKING:
    from noria.grounding.proof.unseeing import Blind

FRAMES = 20
SEEN = {"width": 96, "height": 72, "fps": 5, "visibility": 0.7, "label_noise": 0.1}
SETTINGS = ScoreSettings(draws=100)
TELL = 0.5
"""Share of the scripted writer's first drafts that give the answer away."""


@dataclass(frozen=True)
class Scale:
    """Budgets of the experiments.

    Attributes:
        train: clips that every model of a world learns from.
        epochs: passes of the seer over their frames.
        test: clips that the models are asked about.
        words: clips whose questions the blind classifier is asked besides, for they need no pictures.
        leak: clips of the experiment on leaked words.
        written: clips of the builder's experiment.
    """

    train: int
    epochs: int
    test: int
    words: int
    leak: int
    written: int


@contextmanager
def serving(readers: Mapping[str, Any]) -> Iterator[str]:
    """A chat server on loopback behind which `readers` answer by name; gives the API's address."""
    from noria.core.service.hosting import running
    from noria.core.service.serving import HttpError, Limits, Request, Response, Service, json_response, route
    from noria.grounding.proof.requests import chat_reply

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

    from noria.grounding.proof.perceiver import train_seer
    from noria.grounding.proof.tuning import TUNED
    from noria.grounding.proof.unseeing import train_blind, train_prejudiced
    from noria.grounding.synth.world import make_corpus

    torch.set_num_threads(1)
    size = Scale(**scale)
    biased, even = Knobs(**SEEN, confounder=0.9), Knobs(**SEEN, confounder=0.0)
    scenes, learned = make_corpus(size.train, biased, seed=1000 + seed, prefix="train")
    more = make_corpus(size.words, biased, seed=2000 + seed, prefix="words")[1]
    tests = [make_corpus(size.test, knobs, seed=3000 + seed)[1] for knobs in (biased, even)]
    blind = train_blind(learned, [*tests, more], seed=seed, **TUNED["blind"])
    seer = train_seer(
        scenes,
        biased,
        epochs=size.epochs,
        seed=seed,
        on_step=lambda n, of, loss: report(n, of, f"loss {loss:.2f}"),
        **TUNED["seer"],
    )
    prejudiced = train_prejudiced(scenes, biased, blind, epochs=30, seed=seed, **TUNED["prejudiced"])
    runs = {
        "seer": Asked("seer", "none", biased),
        "seer, black frames": Asked("seer", "black", biased),
        "seer, another clip's frames": Asked("seer", "shuffled", biased),
        "seer, frames reversed": Asked("seer", "reversed", biased),
        "blind classifier": Asked("blind", "blind", biased),
        "prejudiced": Asked("prejudiced", "none", biased),
        "prejudiced, colours at random": Asked("prejudiced", "none", even),
    }
    readers = {"seer": seer, "prejudiced": prejudiced, "blind": blind}
    results: dict[str, Any] = {"words": share_right(blind, more)}
    with tempfile.TemporaryDirectory() as folder, serving(readers) as url:
        for place, (name, asked) in enumerate(runs.items()):
            report(place, len(runs), name)
            results[name] = _ask(Path(folder), url, asked, size.test, seed)
    return results


def share_right(blind: Blind, corpus: Corpus) -> float:
    """Share of a corpus's questions that a blind classifier answers."""
    hits = [
        blind.answers[q.question, tuple(o.text for o in q.options)] == q.correct_answer
        for _, _, q in each_question(corpus)
    ]
    return sum(hits) / len(hits)


@dataclass(frozen=True)
class Asked:
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


def _ask(home: Path, url: str, asked: Asked, count: int, seed: int) -> dict[str, Any]:
    """One run through the product; its figures, and its states."""
    from noria.grounding.corpus.files import save_corpus
    from noria.grounding.results.scores import score_source
    from noria.grounding.results.sources import open_source
    from noria.grounding.synth.world import make_corpus
    from noria.grounding.verbs import judge, run, synth

    silent, seen = Progress(quiet=True), asked.control != "blind"
    clips = home / f"clips-{asked.knobs.confounder}-{asked.knobs.leak}"
    if seen:
        world = synth.SynthConfig(
            **asked.knobs.model_dump(), samples=count, seed=3000 + seed, output=str(clips)
        )
        synth.run(world, silent)
    else:
        save_corpus(make_corpus(count, asked.knobs, seed=3000 + seed)[1], clips / "annotations")
    folder = home / "runs" / asked.name
    config = run.RunConfig(
        data=clips / "annotations",
        **({"videos": clips / "videos", "frames": FRAMES, "side": 96} if seen else {}),
        url=url,
        model=asked.model,
        in_flight=4,
        timeout=600,
        protocol=asked.protocol,
        control=asked.control,
        seed=seed,
        output=str(folder),
    )
    result = run.run(config, silent)
    judge.run(judge.JudgeConfig(source=folder, rubric="rules"), silent)
    scores = score_source(open_source(folder), SETTINGS)
    figures = {figure["name"]: figure["value"] for figure in scores["figures"]}
    return {
        "figures": figures,
        "states": dict(result.counts),
        "table": scores["table"],
        "constant": scores["references"]["T1_constant"],
    }


def run_leak(seed: int, scale: dict[str, int]) -> dict[str, Any]:
    """A script that reads leaked words, under the published protocol and under the staged one: {protocol: figures}."""
    from noria.grounding.proof.unseeing import LeakReader
    from noria.grounding.synth.world import make_corpus

    size = Scale(**scale)
    knobs = Knobs(leak=True, width=16, height=16, fps=1)
    with tempfile.TemporaryDirectory() as folder, serving({"leak": LeakReader()}) as url:
        protocols: tuple[Protocol, ...] = ("unified", "staged")
        runs = {name: Asked("leak", "blind", knobs, name) for name in protocols}
        results = {name: _ask(Path(folder), url, asked, size.leak, seed) for name, asked in runs.items()}
    truth = make_corpus(size.leak, knobs, seed=3000 + seed)[1].levels()
    return results | {"medium": float((truth == 2).mean())}


def run_adversary(seed: int, scale: dict[str, int]) -> dict[str, Any]:
    """The builder with a scripted writer, half of whose first drafts give the answer away.

    The rival writes as many questions anew, taken at random.

    Returns:
        {first, last, random, rewritten, questions}; the first three are shares that the best blind classifier answers.
    """
    import msgspec
    import numpy as np

    from noria.core.chat import Answer, ChatRequest, Outcome
    from noria.grounding.asking.media import Cinema
    from noria.grounding.asking.prompts import evidence_text
    from noria.grounding.asking.store import SampleStore
    from noria.grounding.audit.adversary import SIMPLE, blind_accuracy
    from noria.grounding.building.builder import build
    from noria.grounding.building.config import BuildSettings
    from noria.grounding.synth.world import make_corpus

    size = Scale(**scale)
    (_, clean), (_, drafts) = (
        make_corpus(size.written, Knobs(solvable=tell), seed=4000 + seed) for tell in (0.0, TELL)
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
    places = [(record.video_id, n) for record, n, _ in each_question(drafts)]
    spent = min(len(places), sum(built.rewritten))
    picked = np.random.default_rng(seed).permutation(len(places))[:spent]
    anew = {places[int(n)] for n in picked}
    mixed = Corpus(
        tuple(
            msgspec.structs.replace(
                old,
                mcq_questions=tuple(
                    b if (old.video_id, n) in anew else a
                    for n, (a, b) in enumerate(
                        zip(old.mcq_questions, new.mcq_questions, strict=True), start=1
                    )
                ),
            )
            for old, new in zip(drafts, clean, strict=True)
        )
    )
    shares = blind_accuracy(mixed, auditors=SIMPLE, seed=seed).accuracy["all"].values()
    return {
        "first": built.rounds[0],
        "last": built.rounds[-1],
        "random": max(share for share in shares if share is not None),
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
