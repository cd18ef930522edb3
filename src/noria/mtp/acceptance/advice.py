"""Whether multi-token prediction pays, from measured times and acceptance, and with how many drafts.

A round of γ drafts takes γ draft passes and one verification of γ + 1 tokens, and emits L tokens on average; without
drafts a token takes one decode step. So the speed-up is

    S(γ) = L(γ) t_step / (t_verify(γ) + γ t_draft),    L(γ) = 1 + Σ_{j≤γ} A_j

with all times taken at the batch size that is served: what is nearly free for one request is not for a hundred.
The prefix rates A_j are averages over a decoder's rounds (`noria.mtp.training.evaluate.Averages`), not over the
positions of a text: rounds stand where less is accepted, and with another γ they stand elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from noria.core.errors import ConfigError, DataError
from noria.core.statistics.intervals import Interval
from noria.mtp.types import MAX_GAMMA, Rule

__all__ = [
    "Advice",
    "Option",
    "RuleAdvice",
    "Timing",
    "advise",
    "advise_rule",
    "break_even_length",
    "speed_up",
]

RISE = 0.02  # by how much noise may lift one prefix rate above the one before


@dataclass(frozen=True)
class Timing:
    """Measured seconds (or any one unit) a pass, at the batch size that is served.

    Attributes:
        step: one plain decode step.
        verify: γ → a pass over γ + 1 tokens, the rule's own work included. Only these γ are considered.
        draft: one draft token, its sampling included.

    Raises:
        DataError: a time that is not positive and finite (`draft` may be 0), or γ outside 1 … 32.
    """

    step: float
    verify: Mapping[int, float]
    draft: float

    def __post_init__(self) -> None:
        times = {"step": self.step, **{f"verify[{n}]": t for n, t in self.verify.items()}}
        for name, seconds in times.items():
            if not (math.isfinite(seconds) and seconds > 0):
                raise DataError(f"{seconds} is not a time", where=name, mend="measure it, or leave it out")
        if not (math.isfinite(self.draft) and self.draft >= 0):
            raise DataError(f"{self.draft} is not a time", where="draft")
        if not self.verify or not all(1 <= n <= MAX_GAMMA for n in self.verify):
            raise DataError(
                f"verification measured for γ = {sorted(self.verify)}",
                where="verify",
                mend=f"give some in 1 … {MAX_GAMMA}",
            )


@dataclass(frozen=True)
class Option:
    """The effect of γ drafts a round.

    Attributes:
        gamma: γ.
        length: L, tokens a round.
        break_even: the L above which drafting pays.
        speed_up: S, plain decoding being 1.
    """

    gamma: int
    length: Interval
    break_even: float
    speed_up: Interval


@dataclass(frozen=True)
class Advice:
    """The number of drafts that is advised, and why.

    Attributes:
        gamma: drafts a round; None if MTP should not be used.
        best: the option with the largest speed-up, whether it pays or not.
        options: all of them, by γ.
        verdict: the advice in words.
    """

    gamma: int | None
    best: Option
    options: Sequence[Option] = field(repr=False)
    verdict: str


@dataclass(frozen=True)
class RuleAdvice:
    """The rule that is advised, and why.

    Attributes:
        rule: the one with the largest speed-up; None if none pays.
        by_rule: the advice for each.
        verdict: the advice in words.
    """

    rule: Rule | None
    by_rule: Mapping[Rule, Advice]
    verdict: str


def break_even_length(timing: Timing, gamma: int) -> float:
    """(t_verify(γ) + γ t_draft) / t_step: a round's cost in decode steps, and the L above which drafting pays."""
    return (timing.verify[gamma] + gamma * timing.draft) / timing.step


def speed_up(length: float, timing: Timing, gamma: int) -> float:
    """S = L / ((t_verify(γ) + γ t_draft) / t_step)."""
    return length / break_even_length(timing, gamma)


Rates = Sequence[float | Interval]
"""A_1, A_2, …"""


def advise(prefix: Rates | Mapping[int, Rates], timing: Timing, *, least: float = 1.0) -> Advice:
    """The best γ, or that MTP should not be used.

    The speed-up rises with every A_j, so its interval runs from all lower ends to all upper ends. It is not narrower
    than the confidence says, as rates of one set of chains rise and fall together at most. MTP is advised if the
    lower end of the best γ's speed-up is above `least`, or the speed-up itself where the rates came without
    intervals.

    Args:
        prefix: A_1, A_2, … as numbers or with intervals, for each γ or for all; a NaN and what follows it are unknown.
            A 1-D tensor will do.
        timing: what a round costs.
        least: the speed-up that would make it worth the trouble.

    Raises:
        DataError: rates that are no prefix rates, intervals of different confidence, or no γ has both a time and rates.
        ConfigError: `least` is not positive and finite.
    """
    if not (math.isfinite(least) and least > 0):
        raise ConfigError(f"{least}", where="least", mend="1 is no speed-up")
    wanted = sorted(timing.verify)
    by_gamma = prefix if isinstance(prefix, Mapping) else dict.fromkeys(wanted, prefix)
    rates = {n: _checked(by_gamma[n]) for n in wanted if n in by_gamma}
    options = [_option(known[:n], timing) for n, known in rates.items() if n <= len(known)]
    if not options:
        most = max((len(known) for known in rates.values()), default=0)
        raise DataError(
            f"prefix rates are known up to step {most}, verification was timed for γ = {sorted(timing.verify)}",
            mend="measure both for one γ at least",
        )
    best = max(options, key=lambda option: option.speed_up.effect)
    sure = best.speed_up.effect if math.isnan(best.speed_up.low) else best.speed_up.low
    pays = sure > least
    return Advice(best.gamma if pays else None, best, tuple(options), _verdict(best, options, pays, least))


def advise_rule(
    prefix: Mapping[Rule, Rates | Mapping[int, Rates]],
    timing: Timing | Mapping[Rule, Timing],
    *,
    least: float = 1.0,
) -> RuleAdvice:
    """Find the rule that decodes fastest, each at its own best γ.

    Rejection sampling accepts more than target-only where d_TV(p, q) < 1 − p(argmax q) (Bebop, app. E), which is not
    everywhere, and has the draft's probabilities to keep and to sample from; so both are to be measured (sec. 7.5).

    Args:
        prefix: the prefix rates of each rule, best of the same chains.
        timing: what a round costs, for all rules or for each.
        least: speed-up that would be worth the trouble.

    Raises:
        DataError: no rule, a rule without a timing, or as `advise`.
        ConfigError: as `advise`.
    """
    if not prefix:
        raise DataError("no rule has prefix rates")
    by_rule = {}
    for rule, rates in prefix.items():
        if not isinstance(timing, Timing) and rule not in timing:
            raise DataError(
                f"no times for {rule}", where="timing", mend="give one Timing for all, or for each"
            )
        by_rule[rule] = advise(rates, timing if isinstance(timing, Timing) else timing[rule], least=least)
    # A rule that pays for sure goes before one that is faster on average and may not pay.
    ranked = sorted(
        by_rule, key=lambda r: (by_rule[r].gamma is not None, by_rule[r].best.speed_up.effect), reverse=True
    )
    first = by_rule[ranked[0]]
    if first.gamma is None:
        return RuleAdvice(None, by_rule, first.verdict)
    words = f"verify by {ranked[0]}, γ = {first.gamma}: {_times(first.best.speed_up)}"
    for other in ranked[1:]:
        best = by_rule[other].best
        words += f", against {_times(best.speed_up)} by {other}"
        if best.speed_up.high >= first.best.speed_up.low:
            words += " (their intervals overlap)"
    if ranked[0] == "target_only" and "rejection" in by_rule:
        words += (
            "; the head ranks tokens well for its accept length, and trained on TV it would gain by rejection"
        )
    return RuleAdvice(ranked[0], by_rule, words)


# --- helpers ---------------------------------------------------------------------------------------------------


def _option(rates: Sequence[Interval], timing: Timing) -> Option:
    gamma = len(rates)
    cost = break_even_length(timing, gamma)
    n = min(r.n for r in rates)
    level = rates[0].level
    effect, low, high = (1 + math.fsum(getattr(r, end) for r in rates) for end in ("effect", "low", "high"))
    return Option(
        gamma,
        Interval(effect, low, high, n, level),
        cost,
        Interval(effect / cost, low / cost, high / cost, n, level),
    )


def _bare(rate: float) -> Interval:
    return Interval(rate, math.nan, math.nan, 0)


def _checked(rates: Rates) -> list[Interval]:
    """The rates up to the first that is unknown."""
    known: list[Interval] = []
    for step, given_rate in enumerate(rates, start=1):
        rate = given_rate if isinstance(given_rate, Interval) else _bare(float(given_rate))
        if math.isnan(rate.effect):
            break
        where = f"A_{step}"
        if not 0 <= rate.effect <= 1:
            raise DataError(f"{rate.effect} is no probability", where=where)
        if known and rate.effect > known[-1].effect + RISE:
            raise DataError(
                f"{rate.effect:.3f} after {known[-1].effect:.3f}: a prefix rate cannot rise",
                where=where,
                mend="give P(the first j drafts are all accepted); prefix_rates makes it of conditional rates",
            )
        if known and not math.isnan(rate.low + known[0].low) and rate.level != known[0].level:
            raise DataError(f"confidence {rate.level} beside {known[0].level}", where=where)
        known.append(rate)
    return known


def _times(gain: Interval) -> str:
    return (
        f"{gain.effect:.2f}×"
        if math.isnan(gain.low)
        else f"{gain.effect:.2f}× ({gain.low:.2f} … {gain.high:.2f})"
    )


def _verdict(best: Option, options: Sequence[Option], pays: bool, least: float) -> str:
    gain = best.speed_up
    lengths = f"{best.length.effect:.2f} tokens a round, {best.break_even:.2f} break even"
    if pays:
        words = f"use MTP with γ = {best.gamma}: {_times(gain)} plain decoding, {lengths}"
        if best.gamma == options[-1].gamma < MAX_GAMMA:
            words += f"; γ = {best.gamma} is the largest that was measured, a larger one may be faster"
        return words
    words = f"do not use MTP here: the best, γ = {best.gamma}, is {_times(gain)} plain decoding, {lengths}"
    if gain.effect > least:
        words += f"; its interval does not exclude {least:g}×, so measure more chains"
    elif gain.effect > 1:
        words += f"; {least:g}× was asked for"
    return words
