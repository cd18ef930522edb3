"""Disjoint pools of traffic, dealt by leakage group: what is optimised on is never what decides.

| pool | share | for |
| --- | --- | --- |
| `optimise` | .5 | failures, notes, calibration |
| `route_gate` | .15 | accepts descriptions |
| `body_gate` | .15 | accepts bodies |
| `shadow` | .1 | quality of judges, canaries |
| `test` | .1 | opened once, for the report |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from noria.core.experiments.assignment import position
from noria.skills.traffic.samples import Sample

SHARES = {"optimise": 0.5, "route_gate": 0.15, "body_gate": 0.15, "shadow": 0.1, "test": 0.1}
Pools = Mapping[str, Sequence[Sample]]


def deal_pools(
    samples: Iterable[Sample], *, salt: str, shares: Mapping[str, float] | None = None
) -> dict[str, list[Sample]]:
    """Deal samples to pools, whole groups at a time; samples that share a group or a picture are one group.

    Args:
        samples: samples.
        salt: text that deals the groups; another salt deals them anew.
        shares: share of the groups by pool, 1 in sum.
    """
    shares = SHARES if shares is None else shares
    if abs(sum(shares.values()) - 1) > 1e-9 or min(shares.values()) < 0:
        raise ValueError("shares of pools are not negative and sum to 1")
    listed = list(samples)
    pools: dict[str, list[Sample]] = {name: [] for name in shares}
    for sample, group in zip(listed, leakage_groups(listed), strict=True):
        place, edge = position(salt, group), 0.0
        for name, share in shares.items():
            edge += share
            if place < edge or name == list(shares)[-1]:
                pools[name].append(sample)
                break
    return pools


def leakage_groups(samples: Sequence[Sample]) -> list[str]:
    """Group of each sample after joining groups that share a picture, by union of sets."""
    parent: dict[str, str] = {}

    def find(key: str) -> str:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for sample in samples:
        for key in (f"image:{one}" for one in sample.images):
            one, other = find(f"group:{sample.group}"), find(key)
            parent[max(one, other)] = min(one, other)
    return [find(f"group:{sample.group}") for sample in samples]
