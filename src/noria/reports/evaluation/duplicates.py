"""Near duplicates of short texts by MinHash bands: candidates in about linear time, then their exact similarity."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BANDS, ROWS = 20, 3
THRESHOLD = 0.6
"""Jaccard similarity of shingles from which two texts say the same."""


def shingles(text: str) -> frozenset[int]:
    """Digests of the pairs of words of a text, markers left out; pairs of characters where it is Chinese."""
    plain = re.sub(r"<[^>]*>|\[\d+\]", " ", text.lower())
    words = re.findall(r"[\u4e00-\u9fff]|[^\W_]+", plain)
    return frozenset(zlib.crc32(f"{a} {b}".encode()) for a, b in zip(words, words[1:] or words, strict=False))


def jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    """Similarity |A ∩ B| / |A ∪ B|; 1 for two empty sets."""
    union = len(one | other)
    return len(one & other) / union if union else 1.0


def near_duplicates(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs (earlier, later) of texts whose similarity is at least `THRESHOLD`; the later one of each is the duplicate.

    A pair at the threshold shares one of 20 bands of 3 rows with probability 1 − (1 − .6³)²⁰ > .99.
    """
    sets = [shingles(text) for text in texts]
    signatures = _signatures(sets)
    pairs: set[tuple[int, int]] = set()
    for band in range(BANDS):
        buckets: dict[bytes, list[int]] = {}
        for place, row in enumerate(signatures[:, band * ROWS : (band + 1) * ROWS]):
            buckets.setdefault(row.tobytes(), []).append(place)
        for members in buckets.values():
            first = members[0]
            for later in members[1:]:
                pairs.add((first, later))
            if len(members) <= 50:
                pairs |= {(a, b) for n, a in enumerate(members) for b in members[n + 1 :]}
    return sorted(pair for pair in pairs if jaccard(sets[pair[0]], sets[pair[1]]) >= THRESHOLD)


def _signatures(sets: Sequence[frozenset[int]]) -> NDArray[np.uint64]:
    """MinHash of each set [texts, bands × rows], with multipliers of a fixed seed."""
    draw = np.random.default_rng(20260602)
    # Odd factors of 64 bits wrap around, which mixes the order; small ones would keep it, and all rows would agree.
    factors = draw.integers(1 << 62, 1 << 63, BANDS * ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    shifts = draw.integers(0, 1 << 63, BANDS * ROWS, dtype=np.uint64)
    out = np.zeros((len(sets), BANDS * ROWS), dtype=np.uint64)
    for place, one in enumerate(sets):
        if one:
            values = np.fromiter(one, dtype=np.uint64, count=len(one))
            out[place] = (values[:, None] * factors + shifts >> np.uint64(17)).min(axis=0)
    return out
