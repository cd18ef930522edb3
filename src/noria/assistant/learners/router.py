"""A learner of the model router: which backend answers which request, by ReCal's calibrated rewards on replays.

Requests of the traffic are answered once by every backend that competes, under their present skill, and judged: that
makes a replay table. A small network is trained on it and cross-validated: each fold's requests are routed by a network
that saw neither their people nor what they ask. A router that is better there has to pass the gate of improvement; one
that is as good and cheaper has to be not worse, and cheaper.
Where experiments have dealt requests to several backends the log has a say, too: what it says is worse is refused.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from noria.assistant.config import AssistantConfig
from noria.assistant.learners.around import Around, check_two_judges, parts_of, through
from noria.assistant.learners.logged import logged_values
from noria.assistant.learners.replaying import BundleReplay, route_of
from noria.core.errors import ConfigError, needing
from noria.core.experiments.gates import Rule, grouped_gain
from noria.core.experiments.splits import cross_folds, widest_contents
from noria.core.files import remove_folder
from noria.core.learning.dataset import Dataset, Row
from noria.core.learning.in_order import Way
from noria.core.learning.learner import Candidate, Comparison, Gate, LearnerRun, Parent
from noria.core.learning.routes.replay import Replay, Request, Scored, paired_costs
from noria.core.statistics.intervals import paired_difference

with needing("routing"):
    from noria.routing.config import NetworkTraining
    from noria.routing.routers.files import open_router, save_router
    from noria.routing.routers.learn import NetworkTrainer, train_network
    from noria.routing.tables.table import Cell, Question, Route, Table, table_of, write_table

KIND = "model-router"
LEAST = 60
"""Requests below which no router is trained."""
TRADES = (0.0, 0.02, 0.05, 0.1, 0.2)
"""Trades of quality for cost that are tried on the requests that training did not see."""
THRIFTS = (0.0, 0.1)
"""Weights of cheapness in training that are tried: with one alone every router gives up quality, whatever the trade."""
FOLDS = 5
"""Parts of the people, each of which is routed by a network that was trained on the others' requests."""


def check(config: AssistantConfig) -> None:
    """Check that the learner has what it needs.

    Raises:
        ConfigError: fewer than two backends answer, or the learner has no judge of its own.
    """
    if len(competing(config)) < 2:
        raise ConfigError(
            "a router chooses among several backends, and the routes have one",
            where="routes",
            mend="add a route for each backend that may answer",
        )
    check_two_judges(config)


def competing(config: AssistantConfig) -> list[str]:
    """Backends that may answer: those of the configured routes."""
    return sorted({route.backend for route in config.routes.values()})


def open_learner(around: Around) -> Way:
    """The learner, and the replay under both routers that compares its candidates."""
    learning = around.config.learning
    assert learning.judge is not None
    assert learning.gate_judge is not None
    learner = RouterLearner(around.replay(learning.judge), competing(around.config), learning.judge)
    return Way(learner, RouterReplay(around.replay(learning.gate_judge)))


@dataclass(frozen=True)
class RouterLearner:
    """Proposes a model router.

    Attributes:
        replay: answers requests and judges the answers.
        backends: names of the backends that compete.
        judge: name of the backend that judges for the learner.
        training: settings of the network's training; table, name, seed and thrift follow from the turn.
        least_gain: estimated gain from which a router counts as better.
        most_loss: estimated loss up to which it counts as equal.
        least_saving: share of the cost that an equal router must save.
    """

    replay: Replay
    backends: Sequence[str]
    judge: str
    training: NetworkTraining = field(default_factory=lambda: NetworkTraining(steps=300, held_out=0.05))
    least_gain: float = 0.01
    most_loss: float = 0.005
    least_saving: float = 0.05
    name: str = "model router"
    gate: Gate = "improvement"

    def settings(self) -> Mapping[str, Any]:
        """Do what :meth:`Learner.settings` says."""
        return {
            "backends": list(self.backends),
            "judge": self.judge,
            "training": self.training.model_dump(mode="json"),
            "bounds": [self.least_gain, self.most_loss, self.least_saving],
            "tried": {"thrifts": list(THRIFTS), "trades": list(TRADES), "folds": FOLDS},
            "replay": self.replay.settings(),
        }

    async def propose(self, data: Dataset, parent: Parent, run: LearnerRun) -> Candidate | None:
        """Do what :meth:`Learner.propose` says; None where there are few requests, or no router promises more."""
        requests, lost = self.replay.requests(data.rows("train"))
        if len(requests) < LEAST:
            run.reasons.append(f"{len(requests)} requests can be sent again, {LEAST} needed")
            return None
        parts = parts_of(parent, list(self.replay.backends))
        route = route_of(parent)
        table = await self._table(parent, requests, run)
        run.spending.check()
        present = [through(parts)(route, one.messages).backend for one in requests]
        best, tried = await asyncio.to_thread(self._trained, table, requests, present, run)
        if best is None:
            known = [one for one in tried if not math.isnan(one["gain"])]
            top = max(known, key=lambda one: one["gain"], default=None)
            found = "" if top is None else (
                f"; the best gains {top['gain']:+.3f} ± {top['error']:.3f} at {top['cost ratio']:.2f} times the cost"
            )  # fmt: skip
            run.reasons.append(f"no trained router promises to be better, or as good and cheaper{found}")
            return None
        notes = {
            "judge": self.judge,
            "requests": len(requests),
            "requests that cannot be sent again": lost,
            "tried on held-out requests": tried,
            "thrift": best["thrift"],
            "trade": best["trade"],
        }
        gate: Gate = "improvement" if best["gain"] > self.least_gain else "noninferiority"
        return Candidate(KIND, run.folder / "router", notes=notes, gate=gate)

    async def _table(self, parent: Parent, requests: Sequence[Request], run: LearnerRun) -> Table:
        """Every request answered by every backend, under the skill that the request has now."""
        others = [one for one in parts_of(parent, list(self.replay.backends)) if one.kind != "model"]
        before = through(others)
        rows: list[tuple[Question, Route, Cell, str]] = []
        for backend in self.backends:
            fixed = replace(
                self.replay,
                through=lambda route, messages, to=backend: before(route, messages).model_copy(  # type: ignore[misc]
                    update={"backend": to}
                ),
            )
            scored = await fixed.scores(route_of(parent), requests, run.spending)
            rows += [
                (_question(request), Route(backend), _cell(one), f"request {request.trace}")
                for request, one in zip(requests, scored, strict=True)
            ]
        return table_of(rows)

    def _trained(
        self, table: Table, requests: Sequence[Request], present: Sequence[str], run: LearnerRun
    ) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
        """Choose the trade by requests that training did not see, and train on all of them."""
        path = run.folder / "table.jsonl"
        write_table(path, table)
        thrifts = THRIFTS if not np.isnan(table.cost).all() else (0.0,)
        settings = [
            self.training.model_copy(update={"table": str(path), "thrift": thrift, "seed": run.seed})
            for thrift in thrifts
        ]
        names = [one.label for one in table.routes]
        now = np.array([names.index(one) if one in names else -1 for one in present])
        tried = [
            {"thrift": one.thrift, **_estimated(table, requests, own, now, trade)}
            for one in settings
            for trade, own in zip(TRADES, _crossed(table, requests, one, run.folder / "folds"), strict=True)
        ]
        best = self._best(tried)
        if best is not None:
            training = next(one for one in settings if one.thrift == best["thrift"])
            trained = train_network(training, run.folder / "training").folder
            target = run.folder / "router"
            remove_folder(target)  # of a run that was killed: the same table gives the same router
            save_router(open_router(trained, trade=best["trade"]), target)
        return best, tried

    def _best(self, tried: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
        """The cheapest that gains as much as the best where one is better, else the cheapest that is as good."""
        known = [one for one in tried if not math.isnan(one["gain"])]
        better = [one for one in known if one["gain"] > self.least_gain]
        if better:
            most = max(one["gain"] for one in better)
            as_good = [one for one in better if one["gain"] >= most - self.most_loss]
            return min(as_good, key=_cost_and_trade)
        equal = [
            one
            for one in known
            if one["gain"] >= -self.most_loss and one["cost ratio"] < 1 - self.least_saving
        ]
        return min(equal, key=_cost_and_trade, default=None)


@dataclass(frozen=True)
class RouterReplay:
    """Compares two routers on the same requests; a candidate that is only to be cheaper has to be cheaper.

    Attributes:
        replay: answers requests and judges the answers.
    """

    replay: Replay

    def settings(self) -> Mapping[str, Any]:
        """Do what :meth:`Evaluator.settings` says."""
        return {**BundleReplay(self.replay).settings(), "log": "off-policy"}

    async def compare(
        self, rows: Sequence[Row], parent: Parent, candidate: Candidate, run: LearnerRun
    ) -> Comparison:
        """Do what :meth:`Evaluator.compare` says, with the costs of both sides and what the log says of them."""
        sides = await BundleReplay(self.replay).sides(rows, parent, candidate, run)
        log = logged_values(rows, parent, candidate, list(self.replay.backends), seed=run.seed)
        rules = [] if log.rule is None else [log.rule]
        if candidate.gate == "noninferiority":
            rules.append(cheaper(sides.old, sides.new))
        compared = self.replay.comparison(
            sides.requests, sides.old, sides.new, {**sides.notes, "log": log.notes}
        )
        return replace(compared, rules=(*compared.rules, *rules))


def cheaper(old: Sequence[Scored], new: Sequence[Scored]) -> Rule:
    """Whether a request costs less, with 95 % confidence; missing where costs are not known."""
    costs = paired_costs(old, new)
    if len(costs) < 2:
        return Rule("cheaper", "missing", "the costs of both sides are not known")
    saved = paired_difference(costs[:, 0], costs[:, 1])
    words = (
        f"saves {saved.effect:.4g} [{saved.low:.4g}, {saved.high:.4g}] of {costs[:, 0].mean():.4g} a request"
    )
    return Rule("cheaper", "passed" if saved.low > 0 else "failed", words)


def _question(request: Request) -> Question:
    said = [one.text for one in request.messages if one.role == "user" and one.text.strip()]
    return Question(request.trace, request.slice, said[-1] if said else "")


def _cell(scored: Scored) -> Cell:
    failed = bool(scored.why) and scored.why != "no valid verdict"
    return Cell(
        scored.score,
        scored.cost,
        response=None if failed else "",
        failure=scored.why if failed else None,
    )


def _cost_and_trade(one: Mapping[str, Any]) -> tuple[float, float]:
    """What orders routers of equal quality: the cost where prices are known, then the smaller trade."""
    ratio = one["cost ratio"]
    return (0.0 if math.isnan(ratio) else ratio, one["trade"])


def _crossed(
    table: Table, requests: Sequence[Request], training: NetworkTraining, folder: Path
) -> np.ndarray:
    """[trades, questions] column of the route that the network of each question's fold chooses; −1 where there is none.

    The questions of the table are the requests, in their order.
    """
    held, others = cross_folds(
        [one.group for one in requests],
        [one.contents for one in requests],
        FOLDS,
        salt=f"folds {training.seed}",
    )
    column = {route: n for n, route in enumerate(table.routes)}
    chosen = np.full((len(TRADES), len(requests)), -1)
    for fold, rows in enumerate(others):
        own = [n for n, at in enumerate(held) if at == fold]
        if not own or len(rows) < LEAST // 2:
            continue
        trainer = NetworkTrainer(table.rows(rows), training)
        for _ in range(training.steps):
            trainer.advance()
        place = folder / str(fold)
        remove_folder(place)  # of a run that was killed
        save_router(trainer.router(), place)
        asked = table.rows(own)
        for number, trade in enumerate(TRADES):
            router = open_router(place, trade=trade)
            found = router.choose(asked.texts, asked.dataset)
            chosen[number, own] = [column[router.routes[one]] for one in found]
    return chosen


def _estimated(
    table: Table, requests: Sequence[Request], chosen: np.ndarray, now: np.ndarray, trade: float
) -> dict[str, Any]:
    """Gain and cost of routers against the present choices, on requests that their training did not see."""
    rows = np.flatnonzero((chosen >= 0) & (now >= 0))
    mine, theirs = (rows, chosen[rows]), (rows, now[rows])
    gain = grouped_gain(
        table.quality[mine] - table.quality[theirs],
        [requests[n].group for n in rows.tolist()],
        widest_contents([requests[n].contents for n in rows.tolist()]),
        level=0.9,
    )
    costs = table.cost[mine], table.cost[theirs]
    known = ~np.isnan(costs[0]) & ~np.isnan(costs[1])
    before = float(costs[1][known].sum())
    return {
        "trade": trade,
        "gain": gain.effect,
        "error": (gain.high - gain.low) / 2,
        "cost ratio": float(costs[0][known].sum()) / before if before > 0 else math.nan,
        "requests": len(rows),
        "sent elsewhere": int((chosen[rows] != now[rows]).sum()),
    }
