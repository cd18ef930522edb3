"""Is a sampler lossless? A conformance kit for any engine that decodes by drafting and verifying.

The engine is asked for samples on a target whose exact law is known, and what it returns is tested against that law: by
tokens, by every position, under temperature and truncation, greedily, with stale and with disjoint drafts; and that
seeds, batches, end tokens and log-probabilities mean what they should. A check that could not be made is `None` with
its reason, never a pass.

The statistical checks are G-tests, Σ 2 O log(O/E) ~ χ², over cells that the law fixes before the samples are seen.
Together they convict a lossless engine with probability at most `alpha` (Holm 1979). Each says how far from the law the
samples are in total variation, how far chance alone would bring them, and what distance it would have noticed.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from noria.core.errors import ConfigError
from noria.core.records import json_values
from noria.core.statistics.corrections import holm
from noria.mtp.engines.checks import QUESTIONS, Question
from noria.mtp.engines.desk import BadAnswer, Desk, NoAnswer
from noria.mtp.engines.engine import Engine, Law, Sampler
from noria.mtp.engines.evidence import Check, LawTables, exact, unknown

STEPS = len(QUESTIONS)
"""Questions of an audit."""


@dataclass(frozen=True)
class AuditReport:
    """All checks of one engine.

    Attributes:
        engine: name of the engine.
        checks: in the order they were made.
        alpha: the probability of convicting a lossless engine, over all statistical checks.
    """

    engine: str
    checks: tuple[Check, ...]
    alpha: float

    @property
    def verdict(self) -> Literal["pass", "fail", "incomplete"]:
        """`fail` if a check failed; else `incomplete` if one could not be made; else `pass`."""
        answers = [check.passed for check in self.checks]
        if False in answers:
            return "fail"
        return "incomplete" if None in answers or not answers else "pass"

    def failures(self) -> tuple[str, ...]:
        """Names of the failed checks."""
        return tuple(check.name for check in self.checks if check.passed is False)

    def table(self) -> str:
        """The report as lines of text."""
        words = {True: "pass", False: "FAIL", None: "not checked"}
        rows = [("check", "result", "p", "TV", "detail")]
        for check in self.checks:
            p = "" if check.p_value is None else f"{check.p_value:.2g}"
            effect = "" if check.effect is None else f"{check.effect:.3f}"
            rows.append((check.name, words[check.passed], p, effect, check.detail))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [
            "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[4]]) for row in rows
        ]
        made = sum(check.passed is not None for check in self.checks)
        last = (
            f"{self.engine}: {self.verdict} ({made} of {len(self.checks)} checks made, alpha {self.alpha:g})"
        )
        return "\n".join([*(line.rstrip() for line in lines), last])

    def to_json(self) -> str:
        """The report as JSON; a number that is missing or infinite is null."""
        checks = [asdict(check) for check in self.checks]
        report = {"engine": self.engine, "verdict": self.verdict, "alpha": self.alpha, "checks": checks}
        return json.dumps(json_values(report), indent=2, allow_nan=False, ensure_ascii=False)


def audit(
    engine: Engine | Sampler,
    law: Law,
    prompts: Sequence[Sequence[int]],
    *,
    samples: int = 4000,
    depth: int = 4,
    seed: int = 0,
    alpha: float = 1e-3,
    tolerance: float = 1e-3,
    prefixes: int = 20_000,
    on_step: Callable[[int, str], None] | None = None,
) -> AuditReport:
    """Make every check that the engine allows.

    It asks for about 11 × `samples` sequences. `depth` should be at least one more than the engine drafts, so that the
    token after a wholly accepted chain is among those whose joint law is tested.

    Args:
        engine: what to audit; a bare callable is its `sample`.
        law: the exact next-token distribution of the target.
        prompts: samples are shared evenly between them; a small vocabulary and few prompts give the sharpest tests.
        samples: sequences a statistical check is made of.
        depth: joint laws of 1, …, `depth` tokens are tested, as far as the sequences reach.
        seed: seed of the first request; others count on from it.
        alpha: the probability with which a lossless engine may be convicted.
        tolerance: largest error of a log-probability, in nats.
        prefixes: the most prefixes whose law is looked up for the check of all positions.
        on_step: called every few seconds of work with how many of the `STEPS` questions are answered, and which is
            asked.

    Raises:
        ConfigError: no prompt, or a number out of its range.
        DataError: the law is not one: negative, not finite, or not summing to 1.
    """
    if not prompts:
        raise ConfigError("no prompt", where="prompts")
    for name, value, least in (
        ("samples", samples, len(prompts)),
        ("depth", depth, 1),
        ("prefixes", prefixes, 1),
    ):
        if value < least:
            raise ConfigError(f"{value} is out of range", where=name, mend=f"give at least {least}")
    if not 0 < alpha < 1:
        raise ConfigError(f"{alpha} is out of range", where="alpha", mend="give a number between 0 and 1")
    if not isinstance(engine, Engine):
        engine = Engine(engine)
    desk = Desk(
        engine,
        LawTables(law),
        [tuple(int(t) for t in prompt) for prompt in prompts],
        samples // len(prompts),
        depth,
        seed,
        tolerance,
        prefixes,
    )
    findings: list[Check] = []
    for number, (names, question) in enumerate(QUESTIONS):
        if on_step is not None:
            desk.beat = functools.partial(on_step, number, names[0])
        desk.beat()
        findings += _answer(desk, names, question)
    return AuditReport(engine.name, tuple(_holm(findings, alpha)), alpha)


def _holm(checks: Sequence[Check], alpha: float) -> list[Check]:
    """Judge the checks that carry a p-value, together: Holm's step-down at level alpha."""
    adjusted = holm([check.p_value if check.passed else None for check in checks])
    return [
        replace(check, passed=False) if p is not None and p <= alpha else check
        for check, p in zip(checks, adjusted, strict=True)
    ]


def _answer(desk: Desk, names: tuple[str, ...], question: Question) -> list[Check]:
    """Ask one question: without an answer it is unknown, with one in no usable form it fails."""
    try:
        return question(desk, *names)
    except NoAnswer as error:
        return [unknown(name, str(error)) for name in names]
    except BadAnswer as error:
        return [exact(name, str(error)) for name in names]
