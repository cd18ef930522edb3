"""The queue of missing skills: requests that no skill is for and that are about one thing.

Out-of-domain requests are scattered; requests for a skill that is missing are close to each other. Among requests that
found no skill, clusters of enough leakage groups are queued with the terms that tell them from the rest. Where there is
earlier traffic to compare with, requests whose neighbours are mostly new are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.skills.proposing.terms import telling_terms
from noria.skills.routing.encoders import Encoder
from noria.skills.traffic.samples import Sample

Floats = NDArray[np.float64]
MOST = 3000
"""Requests that are clustered at once; of more, evenly spaced ones are taken."""


@dataclass(frozen=True)
class MissingSkill:
    """A skill that seems to be missing: its requests, their leakage groups, and the terms that tell them."""

    samples: tuple[Sample, ...]
    groups: int
    terms: tuple[str, ...]


def missing_skills(
    samples: Sequence[Sample], encoder: Encoder, *, least_groups: int = 8, near: float = 0.45
) -> list[MissingSkill]:
    """Cluster requests that found no skill.

    Args:
        samples: those requests.
        encoder: turns texts into vectors.
        least_groups: leakage groups that a cluster needs.
        near: least mean cosine between two clusters that are joined.

    Returns:
        The queue, the largest cluster first.
    """
    from scipy.cluster.hierarchy import fcluster, linkage

    samples = _spaced(samples, MOST)
    if len(samples) < 2:
        return []
    vectors = _centred([encoder.encode([sample.text for sample in samples])])[0]
    labels = fcluster(linkage(vectors, "average", metric="sqeuclidean"), 2 * (1 - near), "distance")
    found = []
    for label in np.unique(labels):
        inside = (labels == label).tolist()
        own = [s for s, taken in zip(samples, inside, strict=True) if taken]
        rest = [s.query for s, taken in zip(samples, inside, strict=True) if not taken]
        groups = len({s.group for s in own})
        if groups >= least_groups:
            terms = telling_terms([s.query for s in own], rest, most=8)
            found.append(MissingSkill(tuple(own), groups, tuple(terms)))
    return sorted(found, key=lambda m: -len(m.samples))


def _spaced(samples: Sequence[Sample], most: int) -> list[Sample]:
    if len(samples) <= most:
        return list(samples)
    return [samples[n] for n in np.linspace(0, len(samples) - 1, most).astype(int)]


def find_missing(
    samples: Sequence[Sample],
    reference: Sequence[Sample],
    encoder: Encoder,
    *,
    neighbours: int = 10,
    rare: float = 0.003,
    least_groups: int = 8,
) -> list[MissingSkill]:
    """Skills that new traffic asks for and earlier traffic did not.

    Requests of a new intent have each other as neighbours. So a new request is a seed where more of its `neighbours`
    nearest requests of other leakage groups are new than chance explains, binomial at `rare` (the local form of
    Schilling's two-sample test, JASA 1986). Without drift as many earlier requests have too many earlier neighbours:
    nothing is queued unless the seeds outnumber those by a sign test at .01. A ridge regression that tells the seeds
    from the earlier requests then finds the rest of the new intent.

    The three numbers of this search were chosen on seeds 101 to 104 of the picture world, among sixty settings.

    Args:
        samples: new requests, without labels.
        reference: earlier requests.
        encoder: turns texts into vectors.
        neighbours: nearest requests that are looked at.
        rare: chance that a request is a seed without drift.
        least_groups: leakage groups of seeds below which nothing is queued.

    Returns:
        A queue of at most one entry: all that is new, since the search does not tell new skills apart.
    """
    from scipy.stats import binom

    samples, reference = _spaced(samples, MOST), _spaced(reference, MOST)
    if min(len(samples), len(reference)) < neighbours:
        return []
    sides = [encoder.encode([s.text for s in side]).astype(float) for side in (samples, reference)]
    groups = [[s.group for s in side] for side in (samples, reference)]
    new = _share_of_new(sides, groups, neighbours)
    expected = len(samples) / (len(samples) + len(reference))
    seeds = new[0] * neighbours > binom.ppf(1 - rare, neighbours, expected)
    mirrored = (1 - new[1]) * neighbours > binom.ppf(1 - rare, neighbours, 1 - expected)
    counts = [
        len({g for g, taken in zip(side, picked.tolist(), strict=True) if taken})
        for side, picked in zip(groups, (seeds, mirrored), strict=True)
    ]
    if counts[0] < least_groups or binom.sf(counts[0] - 1, sum(counts), expected) > 0.01:
        return []
    taken = _grown(sides[0], sides[1], seeds).tolist()
    found = [s for s, own in zip(samples, taken, strict=True) if own]
    rest = [s.query for s, own in zip(samples, taken, strict=True) if not own]
    terms = telling_terms([s.query for s in found], [*rest, *(s.query for s in reference)], most=8)
    return [MissingSkill(tuple(found), len({s.group for s in found}), tuple(terms))]


def _share_of_new(
    sides: Sequence[Floats], groups: Sequence[Sequence[str]], neighbours: int
) -> tuple[Floats, Floats]:
    """Share of new requests among the neighbours of each new and of each earlier one."""
    rows = np.concatenate(_centred(sides))
    cosines = rows @ rows.T
    _, code = np.unique([*groups[0], *groups[1]], return_inverse=True)
    cosines[code[:, None] == code[None, :]] = -2.0
    near = np.argpartition(-cosines, neighbours, axis=1)[:, :neighbours]
    share = (near < len(sides[0])).mean(axis=1)
    return share[: len(sides[0])], share[len(sides[0]) :]


def _centred(sides: Sequence[Any]) -> list[Floats]:
    """Unit vectors less the mean of the last side, made units again."""
    made = []
    for side in sides:
        centred = np.asarray(side, float) - np.asarray(sides[-1], float).mean(axis=0)
        norms = np.linalg.norm(centred, axis=1, keepdims=True)
        made.append(np.divide(centred, norms, out=np.zeros_like(centred), where=norms > 0))
    return made


def _grown(new: Floats, before: Floats, taken: NDArray[np.bool_], steps: int = 3, bar: float = 0.6) -> Any:
    """The new requests that a ridge regression puts with the seeds, fitted again on what it took the time before."""
    rows, others = (np.c_[side, np.ones(len(side))] for side in (new, before))
    for _ in range(steps):
        own = rows[taken]
        weight = len(others) / max(1, len(own))
        gram = weight * own.T @ own + others.T @ others + 2.0 * np.eye(rows.shape[1])
        grown = rows @ np.linalg.solve(gram, weight * own.sum(axis=0)) > bar
        if not grown.any():
            break
        taken = grown
    return taken
