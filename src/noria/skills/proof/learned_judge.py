"""A judge that is learned from few noisy labels: ridge regression on what an answer shows, with errors of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from noria.skills.judging.judges import Opinion
from noria.skills.judging.rubric import CARDS, DIMENSIONS
from noria.skills.proof.simulator import points_of, truth
from noria.skills.proof.world import rubric
from noria.skills.traffic.samples import Response, Sample

PROBES = ("[source]", "sure", "because", "next", "named")


class LearnedJudge:
    """A blind judge of points.

    Args:
        cases: answers that it learns from.
        generator: draws the noise of the labels.
        noise: standard deviation of a label, as a share of the points.
    """

    name = "learned"

    def __init__(
        self, cases: Sequence[tuple[Sample, Response]], generator: np.random.Generator, *, noise: float = 0.15
    ) -> None:
        maxima = np.array([rubric().dimensions[name].points for name in DIMENSIONS], float)
        labels = np.array([points_of(truth(s, r)) for s, r in cases])
        labels = labels + maxima * noise * generator.normal(size=labels.shape)
        rows = np.array([_seen(s, r) for s, r in cases])
        self._weights = np.zeros((rows.shape[1], len(DIMENSIONS)))
        for column in range(len(DIMENSIONS)):
            known = ~np.isnan(labels[:, column])
            x, y = rows[known], labels[known, column]
            self._weights[:, column] = np.linalg.solve(x.T @ x + 2.0 * np.eye(x.shape[1]), x.T @ y)
        self._maxima = maxima

    def judge(
        self, cases: Sequence[tuple[Sample, Response]], bodies: Mapping[str, str] | None
    ) -> list[Opinion]:
        """One opinion a case."""
        made = []
        for sample, response in cases:
            values = np.clip(np.rint(_seen(sample, response) @ self._weights), 0, self._maxima)
            points: dict[str, float | None] = dict(zip(DIMENSIONS, values.tolist(), strict=True))
            if not sample.cards:
                points[CARDS] = None
            made.append(Opinion(points))
        return made


def _seen(sample: Sample, response: Response) -> NDArray[np.float64]:
    words = response.text.split()
    right = float(response.skill in sample.expected)
    own = [float(probe in words) for probe in PROBES]
    return np.array(
        [
            1.0,
            right,
            bool(response.calls),
            bool(response.cards),
            len(words) / 20,
            *own,
            *(right * v for v in own),
        ]
    )
