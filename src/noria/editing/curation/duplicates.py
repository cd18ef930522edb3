"""Near-duplicates and contamination: words in n-grams, pictures by a perceptual hash of their low frequencies."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from PIL.Image import Image as Picture

NEAR = 0.7
"""Jaccard similarity of character 4-grams from which two instructions are near-duplicates."""
NGRAM = 8
"""Words of an n-gram; an instruction with fewer words is compared as a whole."""
MOST_BITS = 6
"""Most of 64 bits in which the hashes of one picture's versions differ."""


def words(text: str) -> list[str]:
    """Words of a text in lower case; of a script without blanks, its characters."""
    return [
        piece
        for run in re.findall(r"\w+", text.lower())
        for piece in (list(run) if any("\u2e80" <= c <= "\uffdc" for c in run) else [run])
    ]


def ngrams(text: str, n: int = NGRAM) -> set[tuple[str, ...]]:
    """N-grams of a text's words; the whole of a text with fewer words."""
    found = words(text)
    if len(found) <= n:
        return {tuple(found)} if found else set()
    return {tuple(found[at : at + n]) for at in range(len(found) - n + 1)}


def similarity(one: str, other: str) -> float:
    """Jaccard similarity of the character 4-grams of two texts, in [0, 1]."""
    first, second = _shingles(one), _shingles(other)
    return len(first & second) / len(first | second) if first | second else 1.0


def _shingles(text: str) -> set[str]:
    plain = " ".join(words(text))
    return {plain[at : at + 4] for at in range(max(1, len(plain) - 3))} if plain else set()


def picture_hash(image: Picture) -> int:
    """Perceptual hash of 64 bits: signs of the 8 × 8 lowest frequencies of the picture against their median.

    The cosine transform is that of Zauner (2010), "Implementation and Benchmarking of Perceptual Image Hash Functions";
    the constant term is left out of the median.
    """
    from scipy.fft import dctn

    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), dtype=np.float64)
    low = dctn(grey, norm="ortho")[:8, :8].ravel()
    # Frequencies of a flat picture are rounding: they must not look like a pattern.
    low[np.abs(low) < 1e-6 * max(1.0, float(np.abs(low[0])))] = 0.0
    bits = low > np.median(low[1:])
    return int(sum(1 << n for n, bit in enumerate(bits) if bit))


def bits_apart(one: int, other: int) -> int:
    """Number of bits in which two hashes differ."""
    return (one ^ other).bit_count()


def near_duplicates(
    texts: Sequence[str], *, hashes: Sequence[int] = (), near: float = NEAR
) -> dict[int, int]:
    """Entries that repeat an earlier one: its number by theirs.

    Args:
        texts: instructions.
        hashes: perceptual hashes of their pictures; with them, a repetition has the same picture, too.
        near: least similarity.
    """
    shingles = [_shingles(text) for text in texts]
    kept: list[int] = []
    found: dict[int, int] = {}
    for number, own in enumerate(shingles):
        for earlier in kept:
            other = shingles[earlier]
            if not own and not other:
                alike = True
            else:
                # The smaller over the larger bounds the similarity from above: most pairs end here.
                small, large = sorted((len(own), len(other)))
                alike = small >= near * large and len(own & other) >= near * len(own | other)
            if alike and (not hashes or bits_apart(hashes[number], hashes[earlier]) <= MOST_BITS):
                found[number] = earlier
                break
        else:
            kept.append(number)
    return found


@dataclass
class Benchmark:
    """Texts and pictures of a benchmark, which no training may see.

    Attributes:
        name: name of the benchmark.
        grams: n-grams of its texts.
        hashes: perceptual hashes of its pictures.
    """

    name: str
    grams: set[tuple[str, ...]] = field(default_factory=set)
    hashes: list[int] = field(default_factory=list)

    def add(self, texts: Iterable[str], pictures: Iterable[Picture] = ()) -> None:
        """Add an item: its texts and its pictures."""
        for text in texts:
            self.grams |= ngrams(text)
        self.hashes += [picture_hash(picture) for picture in pictures]

    def contaminates(self, texts: Iterable[str], hashes: Iterable[int]) -> str:
        """Why a task is too near to the benchmark, in a phrase; empty where it is not."""
        if any(ngrams(text) & self.grams for text in texts):
            return f"words of {self.name}"
        if any(bits_apart(one, other) <= MOST_BITS for one in hashes for other in self.hashes):
            return f"a picture of {self.name}"
        return ""
