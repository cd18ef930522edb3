"""A small world to learn in: users, logged requests, models that answer well or badly by a draw, a rule as judge."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from noria.core.chat import Answer, ChatRequest, Failure, Outcome, Part, Prices, Text
from noria.core.experiments.assignment import position
from noria.core.files import appearing
from noria.core.judging import Checklist, Item, RuleJudge
from noria.core.learning.dataset import Dataset, FreezeConfig, freeze
from noria.core.learning.learner import LearnerRun
from noria.core.learning.plan import TurnConfig, plan_turn
from noria.core.learning.routes.backends import Backend, write_route
from noria.core.learning.routes.learner import RouteLearner
from noria.core.learning.routes.replay import Replay, ReplayConfig
from noria.core.learning.routes.route import Route
from noria.core.learning.spending import Spending
from noria.core.learning.turn import Turn
from noria.core.storage.control import SQLiteControl
from noria.core.traces.datasets import examples
from noria.core.traces.records import Candidate, JudgementRecord, Span, SpanError, Trace, VerdictRecord
from noria.core.traces.store import TraceView
from noria.core.versions.artefacts import ArtefactStore

DAY = 1_764_331_200_000_000_000
CHECKLIST = Checklist((Item("good", "Is it good?"), Item("safe", "Is it safe?", path="safety")))
OLD, NEW, BAD = (Route(backend=name) for name in ("old", "new", "bad"))


def trace_id(n: int) -> str:
    return str(uuid.UUID(int=(DAY // 1_000_000 + n) << 80 | 0x7 << 76 | 0b10 << 62 | n))


def logged_trace(
    n: int,
    *,
    score: float | None = 1.0,
    text: str | None = None,
    answer: str = "fine",
    options: dict[str, float | None] | None = None,
    chosen: str | None = None,
    error: SpanError | None = None,
    invalid: bool = False,
) -> TraceView:
    name, at = trace_id(n), DAY + n * 1_000_000
    words = text or "".join(chr(97 + int(digit)) for digit in str(n))
    chat = Span("c", "chat", "m", at, at + 1, input=[{"role": "user", "content": words}],
                output=None if error else answer, error=error)  # fmt: skip
    spans: tuple[Span, ...] = (chat,)
    if options:
        candidates = tuple(Candidate(key, propensity=p) for key, p in options.items())
        spans = (Span("r", "model", "router", at, at, candidates=candidates, chosen=chosen), chat)
    trace = Trace(name, at, at + 1, "failed" if error else "ok", user=f"user {n}", spans=spans)
    verdict = VerdictRecord("good", "invalid" if invalid else "yes" if (score or 0) >= 0.5 else "no")
    judgement = JudgementRecord(f"j{n}", name, at, "log", "1", CHECKLIST.digest, "judge", (verdict,), score)
    return TraceView(trace, (), () if score is None and not invalid else (judgement,))


def log(n: int = 300) -> list[TraceView]:
    return [logged_trace(i, score=float(position("log", str(i)) < 0.6)) for i in range(n)]


@dataclass
class Model:
    """A model that answers well with a probability that its prompt can raise."""

    quality: float
    cost: float | None = 0.01
    failure: str = ""
    unsafe: str = ""
    asked: list[ChatRequest] = field(default_factory=list)

    async def ask(self, request: ChatRequest) -> Outcome:
        self.asked.append(request)
        if self.failure:
            return Failure(self.failure, "as the test wants it")  # type: ignore[arg-type]
        said = request.messages[-1].text
        if said == self.unsafe:
            return Answer("unsafe", cost=self.cost)
        quality = self.quality + 0.3 * ("kind" in request.messages[0].text and len(request.messages) > 1)
        return Answer("well" if position("model", said) < quality else "badly", cost=self.cost)


def frozen(folder: Path) -> Dataset:
    """The data of a turn with its own settings, whose rows are gone from its folder once it has ended."""
    folder.mkdir()
    return freeze(folder, log(), FreezeConfig())


def gate_texts() -> list[str]:
    """Requests of the gates' split, as a turn with its own settings freezes the log."""
    frozen = examples(log(), salt=FreezeConfig().salt, splits=FreezeConfig().splits)
    return [one.messages[0]["content"] for one in frozen if one.split == "gates"]


def judge(name: str = "rule", *, likes: str = "well") -> RuleJudge:
    def rule(item: Item, subject: Sequence[Part]) -> bool:
        last = subject[-1]
        assert isinstance(last, Text)
        return last.text != "Answer:\nunsafe" if item.id == "safe" else last.text == f"Answer:\n{likes}"

    return RuleJudge(rule, name)


def replay(models: dict[str, Model], name: str = "gate's", likes: str = "well", **config: object) -> Replay:
    prices = Prices(input=0.0, output=10.0)  # a reply of 1,024 tokens is reserved at .01
    backends = {key: Backend(model, prices) for key, model in models.items()}
    return Replay(backends, judge(name, likes=likes), CHECKLIST, ReplayConfig(judge_cost=0.0, **config))  # type: ignore[arg-type]


def models() -> dict[str, Model]:
    return {"old": Model(0.5), "new": Model(0.8), "bad": Model(0.2)}


def bundle(folder: Path, route: Route = OLD) -> tuple[ArtefactStore, str]:
    store = ArtefactStore(folder / "store")
    source = folder / "first-route"
    with appearing(source) as partial:
        write_route(partial, route)
    return store, store.bundle([store.add("route", source).digest]).digest


def learner_run(folder: Path, **limits: float) -> LearnerRun:
    return LearnerRun(folder, 0, Spending(folder / "paid.sqlite", **limits))  # type: ignore[arg-type]


def turn(
    home: Path,
    *,
    config: TurnConfig | None = None,
    served: dict[str, Model] | None = None,
    views: Iterable[TraceView] | None = None,
    routes: Sequence[Route] = (NEW, BAD),
    likes: str = "well",
    replayed: int = 60,
    **learner: object,
) -> Turn:
    """The turn of a home, planned or resumed: the same call again is the same command again."""
    served = models() if served is None else served
    store, parent = bundle(home)
    control = SQLiteControl(home / "control.sqlite")
    plan = plan_turn(control, parent=parent, learner="routes", reason="volume", now=1_764_331_200.0)
    return Turn(
        home / "turns" / f"{plan.number:06d}",
        plan,
        TurnConfig() if config is None else config,
        learner=RouteLearner(routes, replay(served, "learner's", likes, most_items=replayed), **learner),  # type: ignore[arg-type]
        evaluator=replay(served),
        store=store,
        control=control,
        views=lambda: log() if views is None else views,
        checklists=[CHECKLIST],
    )
