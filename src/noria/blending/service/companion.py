"""The service's side of the loop beside it: starts the process, takes over what it proposes, reads its figures."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from noria.blending.alignment.alignment import Alignment
from noria.blending.service.config import NearlineConfig
from noria.blending.service.journal.journal import Position
from noria.blending.service.publishing import Publisher
from noria.blending.snapshot import Setting
from noria.core.errors import DataError, needing
from noria.core.records import read_json
from noria.core.service.children import keep_running

with needing("serve"):
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector

log = logging.getLogger("noria.serving")


class Companion(Collector):
    """The service's view of the loop beside it.

    Args:
        state: folder of the service.
        config: settings of the loop.

    Attributes:
        status: last figures of the loop; None before the first.
        failing: why its last tick failed; None if it did not.
        starts: number of starts of its process.
    """

    def __init__(self, state: Path, config: NearlineConfig) -> None:
        self.state = state
        self.config = config
        self.status: dict[str, Any] | None = None
        self.failing: str | None = None
        self.starts = 0
        self._seen: dict[str, int] = {}

    async def run(self) -> None:
        """Keep the process running until cancelled; when cancelled it writes down what it knows, and ends."""

        def started() -> None:
            self.starts += 1

        arguments = ["noria.blending.service.loop.nearline", str(self.state)]
        await keep_running("the nearline loop", arguments, self.config.model_dump_json, started=started)

    def look(self, publisher: Publisher) -> None:
        """Take over what it has proposed since the last look, and read its figures.

        Raises:
            NoriaError: the proposal is none, or the new snapshot cannot be kept; what serves stays.
        """
        folder = self.state / "nearline"
        result = self._changed(folder / "status.json")
        if result is not None:
            self.status = result
        failing = self._changed(folder / "failing.json")
        if failing is not None:
            self.failing = str(failing.get("why"))
        elif not (folder / "failing.json").exists():
            self.failing = None
        proposal = self._changed(folder / "proposal.json")
        if proposal is not None:
            try:
                alignment = Alignment.from_json(proposal["alignment"])
                settings = {plan: Setting(**one) for plan, one in proposal["settings"].items()}
                based_on = int(proposal["based_on"])
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise DataError(f"no proposal ({error})", where=str(folder / "proposal.json")) from None
            publisher.refresh(alignment, settings, based_on=based_on)

    @property
    def oldest(self) -> Position | None:
        """Where in the log the loop may still have to read."""
        return None if self.status is None else Position(*self.status["oldest"])

    def _changed(self, path: Path) -> dict[str, Any] | None:
        """A file's content if it is another than at the last look."""
        try:
            stamp = path.stat().st_mtime_ns
            if self._seen.get(path.name) == stamp:
                return None
            result = read_json(path)
        except FileNotFoundError:
            return None
        except (DataError, OSError):
            log.warning("%s cannot be read", path)
            return None
        self._seen[path.name] = stamp
        return result if isinstance(result, dict) else None

    def collect(self) -> Iterator[Metric]:
        """Figures of the companion in Prometheus' form."""
        gauge, counter = GaugeMetricFamily, CounterMetricFamily
        yield gauge(
            "noria_blending_nearline_failing", "1 if its last tick failed.", float(self.failing is not None)
        )
        yield counter("noria_blending_nearline_starts", "Starts of its process.", self.starts)
        status = self.status
        if status is None:
            return
        yield gauge(
            "noria_blending_nearline_tick_seconds", "When its last tick was, since 1970.", status["at"]
        )
        yield gauge("noria_blending_open_lists", "Lists whose outcomes may still come.", status["open"])
        events = counter(
            "noria_blending_learnt", "Events and lists, by what became of them.", labels=["what"]
        )
        for what, number in status["counts"].items():
            events.add_metric([what], number)
        yield events
        for name, field, what in _OF_PLANS:
            family = gauge(f"noria_blending_plan_{name}", what, labels=["plan"])
            for plan, record in status["plans"].items():
                if record[field] is not None:
                    family.add_metric([plan], float(record[field]))
            yield family
        scale = gauge("noria_blending_alignment_scale", "α of sources that are scaled.", labels=["source"])
        for record in status["sources"]:
            if record["scale"] is not None:
                scale.add_metric([record["source"]], record["scale"])
        yield scale


_OF_PLANS = (
    ("today_exposures", "exposures", "Exposures since midnight UTC."),
    ("exposure_share", "share", "Share of today's exposures."),
    ("today_spend", "spend", "Expected completions spent since midnight UTC."),
    ("price", "price", "Expected completions spent on 1,000 exposures, today."),
    ("resting", "resting", "1 if the plan's budget is spent."),
)
