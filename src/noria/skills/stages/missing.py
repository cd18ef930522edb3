"""The queue of missing skills: requests that no skill is for and that are about one thing.

Out-of-domain requests are scattered; requests for a skill that is missing are close to each other, and unlike what was
asked before. A request is novel where its nearest earlier request is further away than all but a few of the earlier
ones are from theirs. Novel requests are clustered by average linkage of their cosines, and a cluster of enough leakage
groups is queued with the terms that tell it from the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from noria.skills.proposing.terms import telling_terms
from noria.skills.routing.encoders import Encoder
from noria.skills.traffic.samples import Sample

MOST = 3000
"""Requests that are clustered at once; of more, evenly spaced ones are taken."""


@dataclass(frozen=True)
class MissingSkill:
    """A skill that seems to be missing: its requests, their leakage groups, and the terms that tell them."""

    samples: tuple[Sample, ...]
    groups: int
    terms: tuple[str, ...]
    cohesion: float


def novel(
    samples: Sequence[Sample], reference: Sequence[Sample], encoder: Encoder, *, rare: float = 0.02
) -> list[Sample]:
    """Requests unlike earlier ones.

    Args:
        samples: requests.
        reference: earlier requests, labelled or not, out-of-domain ones included.
        encoder: turns texts into vectors.
        rare: share of the earlier requests that would count as novel among the others' groups.
    """
    if not samples or len(reference) < 20:
        return list(samples)
    known = encoder.encode([s.text for s in reference])
    groups = np.array([s.group for s in reference])
    own = known @ known.T
    own[groups[:, None] == groups[None, :]] = -1.0
    bar = float(np.quantile(own.max(axis=1), rare))
    near = (encoder.encode([s.text for s in samples]) @ known.T).max(axis=1)
    return [s for s, n in zip(samples, near.tolist(), strict=True) if n < bar]


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

    if len(samples) > MOST:
        samples = [samples[n] for n in np.linspace(0, len(samples) - 1, MOST).astype(int)]
    if len(samples) < 2:
        return []
    vectors = encoder.encode([sample.text for sample in samples]).astype(float)
    centred = vectors - vectors.mean(axis=0)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    vectors = np.divide(centred, norms, out=np.zeros_like(centred), where=norms > 0)
    labels = fcluster(linkage(vectors, "average", metric="sqeuclidean"), 2 * (1 - near), "distance")
    found = []
    for label in np.unique(labels):
        own = [s for s, k in zip(samples, labels, strict=True) if k == label]
        groups = len({s.group for s in own})
        if groups < least_groups:
            continue
        rest = [s.query for s, k in zip(samples, labels, strict=True) if k != label]
        centre = vectors[labels == label].mean(axis=0)
        terms = tuple(telling_terms([s.query for s in own], rest, most=8))
        found.append(MissingSkill(tuple(own), groups, terms, float(np.linalg.norm(centre))))
    return sorted(found, key=lambda m: -len(m.samples))


def find_missing(
    samples: Sequence[Sample],
    reference: Sequence[Sample],
    encoder: Encoder,
    *,
    rare: float = 0.2,
    near: float = 0.2,
    steps: int = 3,
) -> list[MissingSkill]:
    """Skills that new traffic asks for and earlier traffic did not: novel requests, clustered, then grown.

    A cluster's wording is a part of what its skill would be asked. A ridge regression that tells the queued requests
    from the earlier ones is fitted `steps` times, each time on what it took the time before.

    Args:
        samples: new requests, without labels.
        reference: earlier requests.
        encoder: turns texts into vectors.
        rare: share of the earlier requests that would count as novel.
        near: least mean cosine between two clusters that are joined.
        steps: times that the queue is grown.

    Returns:
        A queue of one entry a connected growth: the clusters together, since they differ from the earlier traffic in
        the same way; empty where no cluster is large enough.
    """
    queued = missing_skills(novel(samples, reference, encoder, rare=rare), encoder, near=near)
    if not queued:
        return []
    ids = {s.id for one in queued for s in one.samples}
    rows = np.c_[encoder.encode([s.text for s in samples]), np.ones(len(samples))].astype(float)
    before = np.c_[encoder.encode([s.text for s in reference]), np.ones(len(reference))].astype(float)
    taken = np.array([s.id in ids for s in samples])
    for _ in range(steps):
        own = rows[taken]
        weight = len(before) / max(1, len(own))
        gram = weight * own.T @ own + before.T @ before + 2.0 * np.eye(rows.shape[1])
        taken = rows @ np.linalg.solve(gram, weight * own.sum(axis=0)) > 0.5
        if not taken.any():
            return queued
    found = [s for s, kept in zip(samples, taken.tolist(), strict=True) if kept]
    rest = [s.query for s, kept in zip(samples, taken.tolist(), strict=True) if not kept]
    centre = rows[taken, :-1].mean(axis=0)
    terms = tuple(telling_terms([s.query for s in found], [*rest, *(s.query for s in reference)], most=8))
    return [MissingSkill(tuple(found), len({s.group for s in found}), terms, float(np.linalg.norm(centre)))]
