"""Figures of the service for Prometheus, beside those that every service has."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from noria.blending.blender import RankedList
from noria.core.errors import needing

with needing("serve"):
    from prometheus_client import CollectorRegistry, Counter, Gauge

if TYPE_CHECKING:
    from noria.blending.service.journal.journal import Journal
    from noria.blending.service.publishing import Publisher


class Metrics:
    """Counters and gauges of one service.

    Args:
        registry: where they are registered.
        publisher: the source of the snapshot's figures.
        journal: the log, if there is one.
        skew: seconds by which a client's clock may differ before it is counted.
    """

    def __init__(
        self, registry: CollectorRegistry, publisher: Publisher, journal: Journal | None, *, skew: float
    ) -> None:
        self._allowed_skew = skew

        def counter(name: str, help: str, *labels: str) -> Counter:
            return Counter(f"noria_blending_{name}", help, list(labels), registry=registry)

        def gauge(name: str, help: str, value: Callable[[], float]) -> None:
            Gauge(f"noria_blending_{name}", help, registry=registry).set_function(value)

        gauge("snapshot_version", "Version that serves.", lambda: publisher.snapshot.version)
        gauge("snapshot_age_seconds", "Seconds since the snapshot was made.", lambda: publisher.age)
        gauge("snapshot_stale", "1 if the snapshot is older than it may be.", lambda: float(publisher.stale))
        gauge("snapshots_rejected", "Snapshots refused since the start.", lambda: publisher.rejected)
        gauge(
            "mean_value", "Expected completions an exposure.", lambda: publisher.snapshot.alignment.mean_value
        )
        if journal is not None:
            gauge("log_waiting_bytes", "Bytes of the log that wait for the disk.", lambda: journal.waiting)
            gauge(
                "log_failed_frames", "Frames that the disk refused since the start.", lambda: journal.failed
            )
            gauge("log_torn_bytes", "Bytes cut off the log at the start.", lambda: journal.found.torn)
            gauge("log_set_aside", "Segments set aside at the start.", lambda: len(journal.found.aside))
        requests = counter("requests", "Ranked requests.", "form")
        self._by_form = {form: requests.labels(form) for form in ("rows", "columns", "arrow")}
        self._candidates = counter("candidates", "Candidates of ranked requests.")
        self._dropped = counter("dropped", "Candidates left out.", "reason")
        self._fallback = counter("fallback", "Candidates that another key's aligner stood in for.")
        self._absent = counter("requests_without_column", "Requests that lack a column a plan asks for.")
        self._clipped = counter("guard_clips", "Places of answered lists whose boost a guard changed.")
        self.events = counter("events", "Events written into the log.", "kind")
        self.unlogged = counter("unlogged", "Requests whose events the log did not take.")
        self.malformed = counter("malformed", "Bodies that could not be read.")
        self._skewed = counter("clock_skew", "Events whose client's clock differs too much.")
        self.backward = counter("clock_backward", "Times that the service's own clock went back.")

    def ranked(self, form: str, ranked: RankedList, candidates: int) -> None:
        """Count a ranked request."""
        self._by_form[form].inc()
        self._candidates.inc(candidates)
        for reason, count in ranked.dropped.items():
            self._dropped.labels(reason).inc(count)
        self._fallback.inc(ranked.fallback)
        self._absent.inc(bool(ranked.absent))
        self._clipped.inc(int(np.count_nonzero(ranked.guard)))

    def skew(self, client: float | None, at: float) -> bool:
        """Count a client's clock that is too far from the service's; return whether it is."""
        far = client is not None and abs(client - at) > self._allowed_skew
        self._skewed.inc(far)
        return far
