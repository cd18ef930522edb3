"""What the loop as a whole promises, on the simulated shop: better than no loop, not undone, and hard to deceive.

Users and oracle were written before any learner; quality is the oracle's, on questions of guests from whom nobody
learns. Simulated users show that the machinery works, not that people are happier.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from noria.assistant.proof.gates import paired_claim
from noria.assistant.proof.loop.harm import CHAMPION
from noria.assistant.proof.loop.imported import run_imported
from noria.assistant.proof.loop.logged import agreement
from noria.assistant.proof.loop.seasons import LOOPS, Scale
from noria.assistant.proof.loop.seed import run_seed
from noria.assistant.proof.loop.tables import notes, tables

if TYPE_CHECKING:
    from noria.core.proofs.proof import Claim, Evidence, ProofContext

SCALES = {
    "quick": Scale(1800, 3, rounds=6, guests=60, raters=200, logged=1300, deals=200),
    "full": Scale(1800, 3, rounds=9, guests=200, raters=400, logged=1800, deals=1000),
}
SEEDS = {"quick": list(range(4)), "full": list(range(40))}
JUDGED = 5000
"""Number that is added to a seed: settings and bank were chosen on seeds 0 to 3 of the shop."""
SOURCE = "design of the loop, 3.8"
CHANGED, ALPHA, BACK, SIGNS, LOSS = 0.1, 0.05, 0.8, 0.9, 0.03
"""Bounds: decisions that hostile users may change, harmful candidates that are promoted, those that are rolled back,
signs that the log predicts, and the quality that a cheaper model may cost."""
PROMOTED = "promoted"
Rows = Sequence[Mapping[str, Any]]
Arms = Mapping[str, Sequence[float | None]]


def prove(context: ProofContext) -> Evidence:
    """Run all arms on every seed, and judge the claims."""
    from noria.core.proofs.proof import Evidence, versions

    began = time.perf_counter()
    scale = SCALES[context.scale]
    seeds = [JUDGED + seed for seed in (context.seeds or SEEDS[context.scale])]
    rows = context.map(run_seed, {f"seed {seed}": (seed, asdict(scale)) for seed in seeds}, label="seasons")
    logs = context.map(run_imported, {f"logs, seed {seed}": (seed,) for seed in seeds}, label="imported logs")
    rows = [row | more for row, more in zip(rows, logs, strict=True)]
    return Evidence(
        system="assistant",
        claims=[*season_claims(rows, scale), *harm_claims(rows), *part_claims(rows), *other_claims(rows)],
        seconds=time.perf_counter() - began,
        versions=versions("torch", "transformers", "numpy"),
        figures=tables(rows),
        notes=notes(rows),
        config=asdict(scale) | {"seeds": seeds, "loops": LOOPS},
    )


def season_claims(rows: Rows, scale: Scale) -> list[Claim]:
    """Claims on the loop's seasons; arms of a seed saw the same users ask the same things."""
    labels = LOOPS * scale.users * scale.turns
    spent = ("questions of users who may correct", {
        "loop": labels, "static": labels, "bundle 0": 0, "without skills": 0, "hostile users": labels, "allowed": 0,
    })  # fmt: skip
    both = {name: _both(rows, name) for name in ("loop", "static", "bundle 0", "without skills")}
    usual = {name: _of(rows, f"{name}, usual") for name in ("loop", "bundle 0")}
    half = {name: _of(rows, f"{name}, half") for name in ("loop", "static")}
    changed = {
        "hostile users": [changed_decisions(row) / LOOPS for row in rows],
        "allowed": [CHANGED] * len(rows),
    }
    exam = "oracle's quality on the exam, 0 to 1"
    return [
        paired_claim("loop", "After three loops answers are better than under the first bundle", exam, "higher",
                     "loop", "bundle 0", both, spent, SOURCE, margin=0.05),
        paired_claim("loop-static", "The loop is better than one training on as many labels, before the drift",
                     exam, "higher", "loop", "static", both, spent, SOURCE),
        paired_claim("kept", "On the words before the drift answers are still better than under the first bundle",
                     exam, "higher", "loop", "bundle 0", usual, spent, SOURCE),
        paired_claim("recovery", "Halfway through the drift the loop answers better than one training before it",
                     exam, "higher", "loop", "static", half, spent, SOURCE),
        paired_claim("skills", "With the skills that the loop made answers are better than with none",
                     exam, "higher", "loop", "without skills", both, spent, SOURCE),
        paired_claim("hostile", "Hostile users (5 %) change fewer than a tenth of the decisions to promote",
                     "share of the turns that differ", "lower", "hostile users", "allowed", changed, spent, SOURCE),
    ]  # fmt: skip


def harm_claims(rows: Rows) -> list[Claim]:
    """Claims on planted candidates: means over those that the oracle says do harm on the seed."""
    spent = ("users who may rate", dict.fromkeys(("planted", "the champion itself", "allowed", "wanted"), 0))

    def mean(row: Mapping[str, Any], figure: str) -> float | None:
        own = [one[figure] for name, one in row["harm"].items() if name != CHAMPION and one["effect"] < 0]
        return sum(own) / len(own) if own else None

    arms: Arms = {
        "planted": [mean(row, "promoted") for row in rows],
        CHAMPION: [row["harm"][CHAMPION]["forced, promoted"] for row in rows],
        "allowed": [ALPHA] * len(rows),
    }
    back: Arms = {"planted": [mean(row, "forced, rolled back") for row in rows], "wanted": [BACK] * len(rows)}
    tests = "share of tests"
    return [
        paired_claim("harm", f"Fewer than {ALPHA:.0%} of planted harmful candidates pass gate and test", tests, "lower",
                     "planted", "allowed", arms, spent, SOURCE),
        paired_claim("a-a", f"The champion against itself is promoted in fewer than {ALPHA:.0%} of tests", tests,
                     "lower", CHAMPION, "allowed", arms, spent, SOURCE),
        paired_claim("rolled-back", f"Forced past the gate, harmful candidates are rolled back in more than {BACK:.0%} "
                     "of tests", tests, "higher", "planted", "wanted", back, spent, SOURCE),
    ]  # fmt: skip


def part_claims(rows: Rows) -> list[Claim]:
    """Claims on parts that were left out: what each gives to the exam, and what the choice of a model saves."""
    names = list(rows[0]["parts"])
    spent = ("questions of the exam", dict.fromkeys((*names, "large less .03", "before", "after"), 0))
    worth = {name: [row["parts"][name]["quality"] for row in rows] for name in names}
    worth["large less .03"] = [value - LOSS for value in worth["everything"]]
    repaired = {side: [row["bodies"][side] for row in rows] for side in ("before", "after")}
    cost = {name: [row["parts"][name]["cost"] for row in rows] for name in names}
    exam = "oracle's quality on the exam, 0 to 1"
    gives = {
        "routing of skills": "Choosing a skill gives better answers than one skill for all",
        "bodies": "What the skills' bodies say gives better answers",
        "tools": "Tools give better answers",
        "planner": "The planner gives better answers than the user's words as the editor's prompt",
    }
    return [
        *(
            paired_claim(f"part-{name.split()[0]}", says, exam, "higher", "everything", f"without {name}", worth, spent,
                         SOURCE)
            for name, says in gives.items()
        ),
        paired_claim("bodies-learnt", "Bodies that their learner repaired give better answers than those before", exam,
                     "higher", "after", "before", repaired, spent, SOURCE),
        paired_claim("router-cheaper", "With the learnt router answers cost less than by the large model alone",
                     "cost of a thousand answers", "lower", "with the router", "everything", cost, spent, SOURCE),
        paired_claim("router-quality", f"With the learnt router answers are worse by less than {LOSS:g}", exam,
                     "higher", "with the router", "large less .03", worth, spent, SOURCE),
    ]  # fmt: skip


def other_claims(rows: Rows) -> list[Claim]:
    """Claims on pictures that nobody looks at, on what a log predicts, and on imported logs."""
    spent = ("questions", dict.fromkeys(
        ("ratings alone", "with the guardrail", "estimates", "wanted", "after", "before"), 0
    ))  # fmt: skip
    blind = [row["looking"]["does not look"] for row in rows]
    looking: Arms = {
        "ratings alone": [one["promoted by ratings alone"] for one in blind],
        "with the guardrail": [one["promoted with the guardrail"] for one in blind],
    }
    counts = [agreement(row["logged"]) for row in rows]
    signs: Arms = {
        "estimates": [right / all_ if all_ else None for right, all_ in counts],
        "wanted": [SIGNS] * len(rows),
    }
    logs: Arms = {side: [row["imported"][side] for row in rows] for side in ("before", "after")}
    return [
        paired_claim("grounding", "The guardrail of grounding stops an answerer that does not look at the picture",
                     "share of tests that promote it", "lower", "with the guardrail", "ratings alone", looking, spent,
                     SOURCE, margin=0.5),
        paired_claim("off-policy", f"The log says the sign of a test before it in more than {SIGNS:.0%} of them",
                     "share of the tests with a sign", "higher", "estimates", "wanted", signs, spent, SOURCE),
        paired_claim("imported", "From imported logs the loop gets to better answers against a stub",
                     "oracle's quality of the same questions", "higher", "after", "before", logs, spent, SOURCE),
    ]  # fmt: skip


def changed_decisions(row: Mapping[str, Any]) -> int:
    """Number of turns of the loop that promote, or do not, otherwise than without hostile users."""
    pairs = zip(row["decisions"], row["decisions without hostile users"], strict=True)
    return sum((a == PROMOTED) != (b == PROMOTED) for a, b in pairs)


def _of(rows: Rows, name: str) -> list[float]:
    return [row[name] for row in rows]


def _both(rows: Rows, name: str) -> list[float]:
    """Mean of the exam in the usual and in the later words."""
    return [(row[f"{name}, usual"] + row[f"{name}, later"]) / 2 for row in rows]
