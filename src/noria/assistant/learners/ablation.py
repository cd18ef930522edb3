"""What each part contributes: requests of the log answered with everything, and with one part left out, judged blind.

```
<folder>/dataset/       the requests, frozen
         paid.sqlite    answers and verdicts that were paid for; the same command resumes with them
         result.json    what is known, part by part; `ended` says whether all of it is
```

What people wrote goes when it ends, or when one of them is erased: it then stops, and the next one is another one.

The order of products changes no words that a judge reads: what it is worth is read from what people chose of the lists
that they were shown, by the discounted gain of :mod:`noria.assistant.learners.products.choices`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from noria.assistant.learners.around import Around, through
from noria.assistant.learners.products.choices import gains, shown_lists
from noria.assistant.learners.replaying import route_of
from noria.assistant.learners.settings import AblationConfig
from noria.assistant.parts.protocol import MODULES, RANKERS, Part, open_ranker
from noria.core.errors import DataError
from noria.core.experiments.gates import grouped_gain
from noria.core.experiments.splits import widest_contents
from noria.core.files import appearing, write_atomic
from noria.core.learning.dataset import SPLITS, Dataset, FreezeConfig, Row, freeze
from noria.core.learning.ending import ERASED, remove_texts
from noria.core.learning.learner import Parent
from noria.core.learning.routes.replay import Replay, Request, Scored
from noria.core.learning.spending import Spending, TurnStopped
from noria.core.records import json_object, json_values
from noria.core.runs.run import Run
from noria.core.statistics.intervals import Interval
from noria.core.traces.records import Span
from noria.core.traces.store import TraceView

RESULT = "result.json"
TOOLS = "tools"
Verdict = Literal["helps", "hurts", "shows nothing", "not known"]
"""What a difference says at the level of all parts together."""
_SPANS = {"skills": "skill", "model-router": "model", "plans": "blend", TOOLS: "tool"}
"""Kind of the spans of each part."""
_LEFT_OUT = {
    "skills": "the route alone, without a skill's body",
    "model-router": "the route's own backend",
    "plans": "the order of the search",
    TOOLS: "no calls of tools and no results",
}


@dataclass(frozen=True)
class Contribution:
    """What one part contributes.

    Attributes:
        part: kind of the part's artefact, or `tools`.
        left_out: what is there instead, in words.
        verdict: what the difference says.
        why: why nothing is known; empty where something is.
        requests: requests that were compared, with a score on both sides.
        changed: those of them that the part changed.
        effect, low, high: mean score with the part less that without it; None where not known.
        cost, cost_low, cost_high: cost of a request with the part less that without it; None where not known.
        acted: requests of the sample in which the part acted.
        failed: those of them in which it failed, and the answer was given without it.
    """

    part: str
    left_out: str
    verdict: Verdict
    why: str = ""
    requests: int = 0
    changed: int = 0
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    cost: float | None = None
    cost_low: float | None = None
    cost_high: float | None = None
    acted: int = 0
    failed: int = 0


async def ablate(
    folder: Path,
    parent: Parent,
    around: Around,
    views: Callable[[], Iterable[TraceView]],
    config: AblationConfig,
    *,
    money: float | None = None,
    seconds: float | None = None,
    seen: Callable[[Contribution], None] = lambda one: None,
) -> dict[str, Any]:
    """Leave out one part of a bundle after the other; the result as JSON values, which is in `result.json`, too.

    Args:
        folder: folder of the ablation; one that was interrupted resumes there.
        parent: the bundle.
        around: judge, backends and settings of the gateway.
        views: traces to draw from, called once.
        config: the sample.
        money: most that it may cost, over all of its processes.
        seconds: longest time of all of its processes.
        seen: hears each contribution when it is known.

    Raises:
        RunError: another process works there, or the disk refuses.
        DataError: no request can be sent again.
    """
    gate_judge = around.config.learning.gate_judge
    assert gate_judge is not None
    replay = around.replay(gate_judge)
    replay = replace(replay, config=replay.config.model_copy(update={"most_items": config.requests}))
    identity = {
        "bundle": parent.bundle.digest,
        "config": config.model_dump(mode="json"),
        "replay": replay.settings(),
    }
    with Run.open(folder, config=identity):
        data = _frozen(folder / "dataset", views, around.config.learning.most_traces)
        rows = [row for split in SPLITS if split != "final" for row in data.rows(split)]
        spending = Spending(
            folder / "paid.sqlite",
            money=money,
            seconds=seconds,
            stopped=lambda: "" if data.there else ERASED,
        )
        try:
            work = _Work(replay, parent, around.parts, rows, spending, config)
            result = await work.run(folder / RESULT, seen)
        finally:
            spending.close()
        if result["ended"]:
            remove_texts(folder)
        return result


def _frozen(folder: Path, views: Callable[[], Iterable[TraceView]], most: int) -> Dataset:
    """The traces as they were at the first start; all of them may be looked at, for nothing is chosen by the result."""
    if not folder.exists():
        with appearing(folder) as partial:
            freeze(partial, views(), FreezeConfig(salt="ablation", train=0.5, gates=0.5, most_traces=most))
    return Dataset(folder)


@dataclass
class _Work:
    replay: Replay
    parent: Parent
    parts: Sequence[Part]
    rows: Sequence[Row]
    spending: Spending
    config: AblationConfig

    async def run(self, path: Path, seen: Callable[[Contribution], None]) -> dict[str, Any]:
        requests, lost = self.replay.requests(self.rows)
        if not requests:
            raise DataError(
                "no request can be sent again", where=str(path.parent), mend="keep texts, and answer some"
            )
        names = self._names()
        found: list[Contribution] = []
        stopped = ""
        with_all: list[Scored] = []
        for name in names:
            if name in RANKERS:
                one = self._by_choices(name, len(names))
            elif stopped:
                one = Contribution(name, _LEFT_OUT[name], "not known", stopped, **self._log(name))
            else:
                try:
                    with_all = with_all or await self._scores(self.parts, requests)
                    one = await self._without(name, requests, with_all, len(names))
                except TurnStopped as stop:
                    stopped = f"stopped: {stop}"
                    one = Contribution(name, _LEFT_OUT[name], "not known", stopped, **self._log(name))
            found.append(one)
            seen(one)
        result = {
            "bundle": self.parent.bundle.digest,
            "judge": self.replay.judge.name,
            "requests": len(requests),
            "requests that cannot be sent again": lost,
            "level": self.config.level,
            "parts": [vars(one) for one in found],
            "ended": not stopped,
            "spent": self.spending.cost,
        }
        write_atomic(path, json.dumps(json_values(result), indent=1) + "\n")
        return json_object(path, "an ablation")

    def _names(self) -> list[str]:
        """The parts that there are: those of the bundle, and tools where requests called any."""
        kinds = [kind for kind in (*MODULES, *RANKERS) if kind in self.parent.bundle.artefacts]
        called = any(span.kind == "tool" for row in self.rows for span in row.view.trace.spans)
        return [*kinds, *([TOOLS] if called else [])]

    async def _without(
        self, name: str, requests: Sequence[Request], with_all: Sequence[Scored], parts: int
    ) -> Contribution:
        if name == TOOLS:
            kept, asked = self.parts, [_without_rounds(one) for one in requests]
        else:
            kept, asked = [one for one in self.parts if one.kind != _SPANS[name]], list(requests)
        without = await self._scores(kept, asked)
        return self._contribution(name, requests, with_all, without, parts)

    async def _scores(self, parts: Sequence[Part], requests: Sequence[Request]) -> list[Scored]:
        replay = replace(self.replay, through=through(parts) if parts else None)
        return await replay.scores(route_of(self.parent), requests, self.spending)

    def _contribution(
        self,
        name: str,
        requests: Sequence[Request],
        with_all: Sequence[Scored],
        without: Sequence[Scored],
        parts: int,
    ) -> Contribution:
        gained = [a.score - b.score for a, b in zip(with_all, without, strict=True)]
        costs = [a.cost - b.cost for a, b in zip(with_all, without, strict=True)]
        groups = [one.group for one in requests], widest_contents([one.contents for one in requests])
        cost = grouped_gain(costs, *groups, level=1 - (1 - self.config.level) / parts)
        one = self._measured(name, gained, groups, parts)
        return replace(one, **_ends(cost, "cost", "cost_low", "cost_high"))

    def _by_choices(self, name: str, parts: int) -> Contribution:
        """What an order of products is worth by what people chose: no judge reads it."""
        lists = shown_lists(self.rows)
        folder = self.parent.folder(name)
        assert folder is not None
        ranked = gains(open_ranker(name, folder, ""), lists), gains(None, lists)
        gained = [a - b for a, b in zip(*ranked, strict=True)]
        groups = [one.group for one in lists], widest_contents([one.contents for one in lists])
        one = self._measured(name, gained, groups, parts)
        return one if one.requests else replace(one, why="people chose from no list of products")

    def _measured(
        self, name: str, gained: Sequence[float], groups: tuple[Sequence[str], Sequence[str]], parts: int
    ) -> Contribution:
        """A contribution by paired gains, without its cost; groups and contents of the items."""
        values = np.asarray(gained, np.float64)
        known = values[~np.isnan(values)]
        gain = grouped_gain(values, *groups, level=1 - (1 - self.config.level) / parts)
        verdict, why = _verdict(gain.low, gain.high)
        return Contribution(
            name,
            _LEFT_OUT[name],
            verdict,
            why,
            len(known),
            int((known != 0).sum()),
            **_ends(gain, "effect", "low", "high"),
            **self._log(name),
        )

    def _log(self, name: str) -> dict[str, int]:
        """Count the requests of the log in which a part acted, and failed."""
        own = [[s for s in row.view.trace.spans if s.kind == _SPANS[name]] for row in self.rows]
        return {
            "acted": sum(bool(spans) for spans in own),
            "failed": sum(any(map(_failed, spans)) for spans in own),
        }


def _ends(interval: Interval, *names: str) -> dict[str, Any]:
    """Effect and ends of an interval by these names; None where not known."""
    ends = (interval.effect, interval.low, interval.high)
    return {name: None if math.isnan(end) else end for name, end in zip(names, ends, strict=True)}


def _verdict(low: float, high: float) -> tuple[Verdict, str]:
    if math.isnan(low):
        return "not known", "too few requests have a score on both sides"
    if low == high == 0:
        return "shows nothing", ""
    return ("helps" if low > 0 else "hurts" if high < 0 else "shows nothing"), ""


def _failed(span: Span) -> bool:
    return span.error is not None


def _without_rounds(request: Request) -> Request:
    """A request without the calls and the results of tools behind it."""
    kept = tuple(one for one in request.messages if one.role != "tool" and not one.tool_calls)
    return replace(request, messages=kept)


def next_folder(home: Path, bundle: str, *, again: bool = False) -> Path:
    """Folder of the next ablation of a gateway, or of the last one where that did not end.

    Args:
        home: folder of the ablations.
        bundle: content hash of the bundle that is looked at.
        again: whether one that did not end is left as it is.
    """
    numbers = [int(one.name) for one in home.glob("[0-9]*") if one.name.isdigit()]
    last = home / f"{max(numbers, default=0):06d}"
    if not again and (last / "config.json").exists():
        result = read_result(last)
        mine = json_object(last / "config.json", "settings of an ablation").get("bundle") == bundle
        gone = (last / "dataset").exists() and not Dataset(last / "dataset").there
        if mine and not gone and not (result or {}).get("ended"):
            return last
    return home / f"{max(numbers, default=0) + 1:06d}"


def read_result(folder: Path) -> Mapping[str, Any] | None:
    """What is known of an ablation; None where nothing is.

    Raises:
        DataError: its file is damaged.
    """
    path = folder / RESULT
    return json_object(path, "an ablation") if path.exists() else None
