"""One turn of the loop: freeze, attribute, propose, gate, register, and hand over to an experiment.

```
<folder>/config.json versions.json     the run (:mod:`noria.core.runs`)
         1-freeze/ … 6-hand-over/      a stage's result.json and files; a stage appears whole or not at all
         work/                         what the learner keeps while it works
         paid.sqlite                   what was paid, with its results
         receipt.json report.html      how it ended
```

What people wrote goes when the turn ends (:mod:`noria.core.learning.ending`).

A stage that is there is not done again, and a stage reads only what stages before it wrote, so a turn that was killed
anywhere and started again ends with the same bytes as one that was not. What the clock says is in no result.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from noria.core.errors import DataError, RunError
from noria.core.experiments.gates import (
    GateConfig,
    PairedScores,
    Receipt,
    equivalence_gate,
    improvement_gate,
    noninferiority_gate,
    round_alpha,
)
from noria.core.experiments.lifecycle import OPEN, ExperimentConfig
from noria.core.experiments.starting import starting
from noria.core.files import appearing
from noria.core.judging import Checklist
from noria.core.learning.attribution import CAUSES, Attribution, attribute_all
from noria.core.learning.dataset import REST, Dataset, freeze
from noria.core.learning.ending import STAGES, finish, write_receipt
from noria.core.learning.learner import Candidate, Evaluator, Gate, Learner, LearnerRun, Parent
from noria.core.learning.plan import EXPERIMENT, Outcome, TurnConfig, TurnPlan, holding, why_ended
from noria.core.learning.scheduling.schedule import switched_on
from noria.core.learning.spending import Spending, TurnStopped
from noria.core.records import json_object, json_values, read_json
from noria.core.runs.run import Run, changed_setting
from noria.core.storage.control import Control
from noria.core.traces.store import TraceView
from noria.core.versions.artefacts import ArtefactStore, Lineage, content_digest
from noria.core.versions.pointers import Pointers

GATES: Mapping[Gate, Callable[[PairedScores, GateConfig], Receipt]] = {
    "improvement": improvement_gate,
    "equivalence": equivalence_gate,
    "noninferiority": noninferiority_gate,
}
"""What each gate is."""
CHAMPION = "champion"
"""Name of the pointer to the bundle that serves."""


class Turn:
    """One turn in a folder.

    Args:
        folder: folder of the turn; an interrupted one resumes there.
        plan: the turn, as :func:`noria.core.learning.plan.plan_turn` made it.
        config: settings of the turn.
        learner: makes the candidate.
        evaluator: compares it with its parent.
        store: artefacts and bundles.
        control: turns, leases, switches and experiments.
        views: traces to learn from, oldest first; called once, in the first stage.
        checklists: checklists of the judgements, by which failures get their cause.
    """

    def __init__(
        self,
        folder: Path,
        plan: TurnPlan,
        config: TurnConfig,
        *,
        learner: Learner,
        evaluator: Evaluator,
        store: ArtefactStore,
        control: Control,
        views: Callable[[], Iterable[TraceView]],
        checklists: Iterable[Checklist] = (),
    ) -> None:
        self.folder, self.plan, self.config = Path(folder), plan, config
        self.learner, self.evaluator, self.store, self.control = learner, evaluator, store, control
        self.views, self.checklists = views, {one.digest: one for one in checklists}
        if plan.learner != learner.name:
            raise RunError(f"the turn was planned for the learner {plan.learner}", where=str(folder))
        self._results: dict[str, dict[str, Any]] = {}

    def settings(self) -> dict[str, Any]:
        """What must stay the same for the turn to resume. Money and time may change: neither decides a result."""
        return {
            "turn": vars(self.plan),
            "config": self.config.model_dump(mode="json", exclude={"money", "seconds"}),
            "learner": json_values(self.learner.settings()),
            "evaluator": json_values(self.evaluator.settings()),
            "checklists": sorted(self.checklists),
        }

    def changed(self) -> str:
        """The first setting that keeps an interrupted turn from resuming, in words; empty where it can."""
        change = changed_setting(self.folder, self.settings())
        return change and f"its settings have changed: {change}"

    async def run(self) -> dict[str, Any]:
        """Run the turn, or what is left of it, and return its receipt.

        Raises:
            RunError: another turn is under way, the folder is another turn's, or the disk refuses.
        """
        with Run.open(self.folder, config=self.settings()), holding(self.control, self.folder) as held:
            receipt = self._kept_receipt()
            if receipt is None:
                spending = Spending(
                    self.folder / "paid.sqlite",
                    money=self.config.money,
                    seconds=self.config.seconds,
                    stopped=lambda: held.lost or self._switched_off(),
                )
                try:
                    outcome, reason = await self._stages(spending)
                    if held.lost:  # the receipt is written by who holds the lease
                        raise RunError(held.lost, where=str(self.folder))
                    receipt = write_receipt(self.folder, self.plan, self._results, outcome, reason, spending)
                finally:
                    spending.close()
            finish(self.folder, self.plan, self.control, receipt)
        return receipt

    # -- stages -------------------------------------------------------------------------------------------------------

    async def _stages(self, spending: Spending) -> tuple[Outcome, str]:
        steps = (self._freeze, self._attribute, self._propose, self._gate, self._register, self._hand_over)
        try:
            for name, step in zip(STAGES, steps, strict=True):
                result = await self._stage(name, step, spending)
                if "end" in result:
                    return result["end"]["outcome"], result["end"]["reason"]
        except TurnStopped as stop:
            return "stopped", str(stop)
        except Exception:  # an erasure that stops a turn removes the files that it works with
            ended = why_ended(self.control, self.plan)
            if not ended:
                raise
            return "stopped", ended
        raise AssertionError("the last stage ends a turn")

    async def _stage(
        self, name: str, step: Callable[[Path, Spending], Awaitable[dict[str, Any]]], spending: Spending
    ) -> dict[str, Any]:
        """The result of a stage: the one that is there, or a new one that appears with its files."""
        folder = self.folder / name
        if not folder.exists():
            spending.check()
            with appearing(folder) as partial:
                result = json_values(await step(partial, spending))
                (partial / "result.json").write_text(json.dumps(result, indent=1) + "\n")
        self._results[name] = json_object(folder / "result.json", "a stage's result")
        return self._results[name]

    async def _freeze(self, folder: Path, spending: Spending) -> dict[str, Any]:
        data = freeze(folder, self.views(), self.config.freeze)
        return {"dataset": data.digest, "counts": data.counts, "files": data.about["files"]}

    async def _attribute(self, folder: Path, spending: Spending) -> dict[str, Any]:
        rows = [row for split in ("train", "gates", REST) for row in self.data.rows(split)]
        found, counts = attribute_all(
            (row.view for row in rows), self.checklists, least_score=self.config.least_score
        )
        lines = "".join(json.dumps(vars(one)) + "\n" for one in found)
        (folder / "failures.jsonl").write_text(lines)
        causes = {cause: sum(one.cause == cause for one in found) for cause in CAUSES}
        lacking = self._lacking()
        return {"counts": counts, "causes": causes} | (_end("blocked", lacking) if lacking else {})

    def _lacking(self) -> str:
        """The evidence that is missing, in words; empty where there is enough."""
        counts, config = self.data.counts, self.config
        share = counts["invalid"] / counts["verdicts"] if counts["verdicts"] else 0.0
        if share > config.most_invalid:
            return (
                f"{share:.1%} of {counts['verdicts']} verdicts are invalid, {config.most_invalid:.1%} allowed"
            )
        if counts["rated"] < config.least_rated:
            return f"underpowered: {counts['rated']} rated traces, {config.least_rated} needed"
        groups = counts["groups"]["gates"]
        if groups < config.gate.least_groups:
            few = f"underpowered: {groups} leakage groups for the gate, {config.gate.least_groups} needed"
            lost, chats = counts["chats in no split"], counts["chats"]
            return f"{few}; {lost} of {chats} chats share a content with another split" if lost else few
        return ""

    async def _propose(self, folder: Path, spending: Spending) -> dict[str, Any]:
        run = self._learner_run(spending)
        candidate = await self.learner.propose(self.data, self.parent, run)
        if candidate is None:
            why = "; ".join(run.reasons)
            return _end("nothing", why or "the learner found nothing that promises to be better")
        shutil.copytree(candidate.folder, folder / "candidate", symlinks=True)
        return {
            "kind": candidate.kind,
            "by": candidate.by or self.learner.name,
            "gate": candidate.gate or self.learner.gate,
            "evidence": dict(candidate.evidence),
            "digest": content_digest(candidate.kind, folder / "candidate", candidate.requires),
            "requires": dict(candidate.requires),
            "cost": candidate.cost,
            "notes": dict(candidate.notes),
            "experiment": dict(candidate.experiment),
            "tested": candidate.tested,
        }

    async def _gate(self, folder: Path, spending: Spending) -> dict[str, Any]:
        candidate = self._candidate()
        rows = self.data.rows("gates")
        compared = await self.evaluator.compare(rows, self.parent, candidate, self._learner_run(spending))
        receipt = GATES[candidate.gate or self.learner.gate](compared.scores, self._gate_config(candidate))
        rules = (*receipt.rules, *compared.rules)
        accepted = all(rule.outcome == "passed" for rule in rules)
        receipt = Receipt(receipt.gate, accepted, rules, receipt.gain, receipt.data, receipt.config)
        missing = any(rule.outcome == "missing" for rule in rules)
        outcome: Outcome = "blocked" if missing else "rejected"
        result = {"receipt": receipt.to_json(), "reason": receipt.reason, "notes": dict(compared.notes)}
        return result | ({} if accepted else _end(outcome, receipt.reason))

    async def _register(self, folder: Path, spending: Spending) -> dict[str, Any]:
        candidate = self._candidate()
        before = self.parent.artefact(candidate.kind)
        lineage = Lineage(
            parents=() if before is None else (before.digest,),
            dataset=self.data.digest,
            run=self.folder.name,
            seed=self.config.seed,
            versions=read_json(self.folder / "versions.json")[-1],
            cost=_total(candidate.cost, spending),
            receipt=self._results["4-gate"]["receipt"],
            by=candidate.by,
            at=self.plan.at,
        )
        artefact = self.store.add(
            candidate.kind, candidate.folder, requires=candidate.requires, lineage=lineage
        )
        if before is not None and artefact.digest == before.digest:
            return _end("nothing", "the candidate is what is there already")
        try:
            bundle = self.store.replace(self.parent.bundle, artefact.digest)
        except DataError as error:
            return {"artefact": artefact.digest} | _end(
                "blocked", f"it does not fit the bundle: {error.what}"
            )
        return {"artefact": artefact.digest, "bundle": bundle.digest}

    async def _hand_over(self, folder: Path, spending: Spending) -> dict[str, Any]:
        bundle = self._results["5-register"]["bundle"]
        if not self._candidate().tested:
            return _end(
                "registered", "it passed its gate; no experiment on traffic could tell it from its parent"
            )
        if not switched_on(self.control, "experiments"):
            return _end("registered", "experiments are switched off; the candidate's bundle is kept")
        name = f"turn-{self.plan.number}"
        salt = hashlib.sha256(f"{self.config.freeze.salt}:{name}".encode()).hexdigest()
        candidate = self._candidate()
        settings = {**self.config.experiment, **candidate.experiment}
        config = ExperimentConfig(
            name=name, champion=self.plan.parent, challenger=bundle, salt=salt, **settings
        )
        first = "shadow" if config.shadow_requests else "canary"
        value = {
            "config": config.model_dump(mode="json"),
            "stage": first,
            "reason": f"turn {self.plan.number} of {candidate.by}: {self._results['4-gate']['reason']}",
            "turn": self.plan.number,
        }
        document = self.control.read(EXPERIMENT, name)
        if document is None:
            with starting(self.control):
                against = self._against_experiment()
                if against:
                    return _end("registered", f"{against}; the candidate's bundle is kept")
                self.control.write(EXPERIMENT, name, value, based_on=0, by=candidate.by)
        elif document.value is None or document.value.get("config") != value["config"]:
            raise RunError(f"there is another experiment {name}", where=str(self.folder))
        return {"experiment": name} | _end("handed over", f"the experiment {name} begins in the {first}")

    def _against_experiment(self) -> str:
        """Why no experiment may begin, in words: it would compare with what does not serve, or disturb another."""
        serving = Pointers(self.control, self.store).present(CHAMPION)
        if serving is not None and serving.bundle != self.plan.parent:
            return "another bundle serves by now"
        for document in self.control.read_all(EXPERIMENT):
            if (document.value or {}).get("stage") in OPEN:
                return f"the experiment {document.key} is open"
        return ""

    # -- what stages share --------------------------------------------------------------------------------------------

    @property
    def data(self) -> Dataset:
        """The data of the turn, frozen when it began."""
        return Dataset(self.folder / "1-freeze")

    @property
    def parent(self) -> Parent:
        """The bundle that a candidate would change."""
        return Parent(self.store.load_bundle(self.plan.parent), self.store)

    def _candidate(self) -> Candidate:
        result = self._results["3-propose"]
        folder = self.folder / "3-propose" / "candidate"
        named = {
            name: result[name]
            for name in (
                "kind",
                "requires",
                "cost",
                "notes",
                "by",
                "gate",
                "evidence",
                "experiment",
                "tested",
            )
        }
        return Candidate(folder=folder, **named)

    def _learner_run(self, spending: Spending) -> LearnerRun:
        """The learner's run; it sees no failure of the gates' split."""
        learnt = {row.view.trace.id for split in ("train", REST) for row in self.data.rows(split)}
        lines = (self.folder / "2-attribute" / "failures.jsonl").read_text().splitlines()
        failures = [Attribution(**json.loads(line)) for line in lines]
        work = self.folder / "work"
        work.mkdir(exist_ok=True)
        return LearnerRun(work, self.config.seed, spending, [one for one in failures if one.trace in learnt])

    def _gate_config(self, candidate: Candidate) -> GateConfig:
        alpha = round_alpha(self.config.alpha, self.plan.round)
        return GateConfig(**{**self.config.gate.model_dump(), **candidate.evidence, "alpha": alpha})

    def _switched_off(self) -> str:
        ended = why_ended(self.control, self.plan)
        if ended:
            return ended
        return "" if switched_on(self.control, "learning") else "learning is switched off"

    # -- the receipt --------------------------------------------------------------------------------------------------

    def _kept_receipt(self) -> dict[str, Any] | None:
        path = self.folder / "receipt.json"
        return json_object(path, "a receipt") if path.exists() else None


def _total(cost: float | None, spending: Spending) -> float | None:
    return None if cost is None else cost + spending.cost


def _end(outcome: Outcome, reason: str) -> dict[str, Any]:
    return {"end": {"outcome": outcome, "reason": reason}}
