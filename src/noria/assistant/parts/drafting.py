"""A watch over drafts: speculative decoding gets slow where its heads fall behind their policy, and nobody sees it.

A look at a backend's metrics gives n rounds and the number of drafts that were accepted in them. With p_i the share of
rounds in which the drafts up to step i were accepted when the heads were calibrated,

    mean = Σ p_i        variance = Σ (2i − 1) p_i − mean²        accept length = 1 + mean

and z = (x̄ − (1 − tolerance) mean) / (c √(variance / n)). An alarm is where the CUSUM of z is above its threshold.
Rounds of one answer are alike, which c = 2 allows for.
"""

from __future__ import annotations

import math
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from noria.assistant.config.parts import DraftingConfig
from noria.core.errors import DataError, needing
from noria.core.learning.scheduling.drift import cusum

with needing("serve"):
    from prometheus_client.parser import text_string_to_metric_families

CLUSTERED = 2.0
"""Factor of the deviation for rounds of one answer, which are alike."""
MOST_BYTES = 8 << 20
_NOISE = 1e-6  # a head that is always or never right has no variance of its own
_ROUNDS = ("noria_mtp_drafted_total", "vllm:spec_decode_num_drafts_total")
_ACCEPTED = ("noria_mtp_accepted_total", "vllm:spec_decode_num_accepted_tokens_total")
Fetch = Callable[[str], str]
Tell = Callable[..., None]


@dataclass(frozen=True)
class Counts:
    """Counts of a server since it started: rounds with drafts, and drafts that were accepted in them."""

    rounds: float
    accepted: float


def read_counts(text: str) -> Counts:
    """Counts in the metrics of `noria mtp serve` or of vLLM, over all labels.

    Raises:
        DataError: they are not there, or the text is none of Prometheus'.
    """
    sums: dict[str, float] = {}
    try:
        for family in text_string_to_metric_families(text):
            for one in family.samples:
                if one.name == _ROUNDS[0] and one.labels.get("step") != "1":
                    continue  # every round has a draft at its first step
                if one.name in (*_ROUNDS, *_ACCEPTED):
                    sums[one.name] = sums.get(one.name, 0.0) + one.value
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"no metrics of Prometheus: {error}"[:200], where="metrics") from error
    for rounds, accepted in zip(_ROUNDS, _ACCEPTED, strict=True):
        if rounds in sums and accepted in sums:
            return Counts(sums[rounds], sums[accepted])
    raise DataError("no counts of drafts", where="metrics", mend="name a server that drafts")


@dataclass
class Watch:
    """The drafts of one backend.

    Attributes:
        config: settings of the watch.
        sum: cumulative sum now.
        alarmed: whether this alarm was reported already.
        last: accept length at the last look; None before one.
    """

    config: DraftingConfig
    sum: float = 0.0
    alarmed: bool = False
    last: float | None = None
    _seen: Counts | None = field(default=None, init=False)

    @property
    def calibrated(self) -> float:
        """Accept length that the heads were calibrated to."""
        return 1.0 + sum(self.config.prefix_rates)

    def look(self, counts: Counts) -> bool:
        """Take in the counts of a moment; whether it is an alarm now. Too few rounds, or a new server, are no look."""
        seen = self._seen
        if seen is None or counts.rounds < seen.rounds:
            self._seen = counts
            return self.alarmed
        rounds = counts.rounds - seen.rounds
        if rounds < self.config.least:
            return self.alarmed
        self._seen = counts
        rates = self.config.prefix_rates
        mean = sum(rates)
        variance = sum((2 * step - 1) * rate for step, rate in enumerate(rates, 1)) - mean**2
        deviation = CLUSTERED * math.sqrt(max(variance, _NOISE) / rounds)
        accepted = (counts.accepted - seen.accepted) / rounds
        self.last = 1.0 + accepted
        # one step of the sum, from where it stands: a first value of −sum puts it there
        start = -(self.sum + 0.5) * deviation
        level = (1.0 - self.config.tolerance) * mean
        reached = float(cusum([level + start, accepted], level, deviation)[-1])
        self.sum = min(reached, 2.0 * self.config.threshold)  # so that its end is seen in time, too
        return self.sum > self.config.threshold


class DraftingWatches:
    """The watches of a gateway; used from the companion, one step at a time.

    Args:
        configs: settings by the backend's name.
        tell: hears of an alarm, and of its end.
        fetch: gives the text of an address.
    """

    def __init__(self, configs: Mapping[str, DraftingConfig], tell: Tell, fetch: Fetch | None = None) -> None:
        self.watches = {name: Watch(one) for name, one in configs.items()}
        self.tell, self.fetch = tell, fetch or fetched
        self._next = dict.fromkeys(configs, 0.0)
        self._silent: set[str] = set()

    def step(self) -> None:
        """Look at the backends that are due. Metrics that cannot be read are logged once."""
        for name, watch in self.watches.items():
            if time.monotonic() < self._next[name]:
                continue
            self._next[name] = time.monotonic() + watch.config.every
            try:
                alarm = watch.look(read_counts(self.fetch(watch.config.metrics)))
            except (OSError, ValueError, DataError) as error:
                if name not in self._silent:
                    self.tell("drafts unknown", backend=name, error=str(error)[:200])
                self._silent.add(name)
                continue
            self._silent.discard(name)
            self._say(name, watch, alarm)

    def _say(self, name: str, watch: Watch, alarm: bool) -> None:
        figures = {"accept_length": watch.last, "calibrated": watch.calibrated}
        if alarm and not watch.alarmed:
            watch.alarmed = True
            self.tell("drafts drift", backend=name, **figures)
        elif watch.alarmed and watch.sum == 0.0:
            watch.alarmed = False
            self.tell("drafts recovered", backend=name, **figures)


def fetched(url: str) -> str:
    """The text of an address.

    Raises:
        OSError: it cannot be reached. DataError: it is too large.
    """
    with urllib.request.urlopen(url, timeout=5.0) as answer:
        content: bytes = answer.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise DataError("the metrics are too large", where=url)
    return content.decode("utf-8", "replace")
