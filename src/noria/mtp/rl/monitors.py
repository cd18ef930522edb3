"""Watching a frozen head through reinforcement learning: is it still the head that was measured, is entropy in range?

A drafter that is not reloaded along with the policy keeps emitting sound text, only slower: nothing fails, acceptance
falls to nothing. And a head trained on TV keeps its acceptance only inside the range of entropies it was trained in
(Bebop, Limitations). Both show in numbers that every rollout has at hand.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from noria.core.errors import ConfigError, DataError
from noria.core.statistics.intervals import Interval, proportion_interval


@dataclass(frozen=True)
class Alarm:
    """Something to act on.

    Attributes:
        step: step of the training that raised it.
        kind: `unsynced`: next to nothing is accepted; `drift`: less than was predicted; `entropy`: out of range.
        text: what was seen and what to do, one line.
    """

    step: int
    kind: Literal["unsynced", "drift", "entropy"]
    text: str


class DriftMonitor:
    """Compares served acceptance with what was predicted for the head.

    Args:
        predicted: prefix rates A_1, A_2, … with intervals, averaged over rounds as served ones are: those of
            `noria.mtp.training.evaluate`, `score.rules[rule].served[gamma].rates`.
        tolerance: by how much a served rate may lie below the predicted interval. Prompts change from step to step, and
            rounds of one text go together, which no interval of counts knows.
        nothing: the share of the prediction below which the drafter is taken to be another policy's.
        window: steps that are counted together.

    Raises:
        ConfigError: a setting out of its range.
        DataError: no prediction.
    """

    def __init__(
        self,
        predicted: Sequence[Interval],
        *,
        tolerance: float = 0.05,
        nothing: float = 0.25,
        window: int = 5,
    ) -> None:
        if not 0 <= tolerance < 1 or not 0 < nothing < 1 or window < 1:
            raise ConfigError(
                f"tolerance {tolerance}, nothing {nothing}, window {window}", where="drift monitor"
            )
        if not predicted or any(math.isnan(rate.effect) for rate in predicted):
            raise DataError("a rate is missing", where="predicted", mend="score the head first")
        self.predicted, self.tolerance, self.nothing = list(predicted), tolerance, nothing
        self._counts: deque[tuple[Sequence[int], Sequence[int]]] = deque(maxlen=window)

    def observe(self, step: int, drafted: Sequence[int], accepted: Sequence[int]) -> Alarm | None:
        """Take in a step's rollouts.

        Args:
            step: step of the training.
            drafted: rounds in which a draft stood at place 1, 2, …, from `noria.mtp.decoding.decoder.served_counts`.
            accepted: rounds in which the drafts up to there were all accepted, likewise.

        Returns:
            An alarm while there is reason for one.

        Raises:
            DataError: counts that cannot be.
        """
        if len(drafted) != len(accepted) or any(
            not 0 <= a <= d for d, a in zip(drafted, accepted, strict=True)
        ):
            raise DataError(f"{list(accepted)} accepted of {list(drafted)}", where=f"step {step}")
        self._counts.append((list(drafted), list(accepted)))
        for place, rate in enumerate(self.predicted):
            served = self.served(place)
            if served is None:
                continue
            now, then = _percent(served.effect), _percent(rate.effect)
            seen = f"{now} of drafts {place + 1} are accepted, {then} were predicted"
            least = rate.effect if math.isnan(rate.low) else rate.low
            if served.high < self.nothing * rate.effect:
                return Alarm(
                    step,
                    "unsynced",
                    f"{seen}: the drafter is another policy's; load it again with the policy's weights",
                )
            if served.high < least - self.tolerance:
                return Alarm(
                    step,
                    "drift",
                    f"{seen}; score the head on this policy's text, and train it along on TV if it has fallen behind",
                )
        return None

    def served(self, place: int) -> Interval | None:
        """The served prefix rate at a place, from 0, over the window; None before anything was drafted there."""
        drafted = sum(d[place] for d, _ in self._counts if place < len(d))
        accepted = sum(a[place] for d, a in self._counts if place < len(d))
        return proportion_interval(accepted, drafted) if drafted else None


class EntropyMonitor:
    """Tells when the policy's entropy has left the range in which the head was trained.

    Args:
        low: least mean entropy of the text the head was trained or measured on, nats, such as
            `noria.mtp.training.evaluate.HeadScore.entropy_range` has it.
        high: largest.
        margin: how far beyond is still let be, nats.
        patience: steps in a row that must be outside.

    Raises:
        ConfigError: a setting out of its range.
    """

    def __init__(self, low: float, high: float, *, margin: float = 0.05, patience: int = 3) -> None:
        if (
            not (math.isfinite(low) and math.isfinite(high) and 0 <= low <= high)
            or margin < 0
            or patience < 1
        ):
            raise ConfigError(
                f"range {low} … {high}, margin {margin}, patience {patience}", where="entropy monitor"
            )
        self.low, self.high, self.margin, self.patience = low, high, margin, patience
        self._outside = 0

    def observe(self, step: int, entropy: float) -> Alarm | None:
        """Take in a step's mean entropy, nats; a missing one (NaN) neither counts nor clears.

        Returns:
            An alarm while there is reason for one.
        """
        if math.isnan(entropy):
            return None
        inside = self.low - self.margin <= entropy <= self.high + self.margin
        self._outside = 0 if inside else self._outside + 1
        if self._outside < self.patience:
            return None
        return Alarm(
            step,
            "entropy",
            f"entropy {entropy:.3f} is outside the {self.low:.3f} … {self.high:.3f} nats the head was trained in, "
            f"{self._outside} steps in a row; train it along on TV, with an optimiser and gradient clip of its own",
        )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
