"""Pictures of the world: a catalogue drawn by one studio, users' pictures drawn by another, and tools that look.

The tools are real and imperfect. `image_search` compares a picture with the catalogue by colours and edges, weighted by
what varies less between two drawings of one thing than between things (a diagonal of within-thing variances, learned on
half of the things); `detect` counts connected components of a collage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from noria.core.pictures import Thing, draw, things

SIZE = 48


@dataclass(frozen=True)
class Catalogue:
    """Things of the world and the features of both drawings.

    Attributes:
        things: the things.
        features: [things, features] of the catalogue's drawings (Twemoji).
        asked: [things, features] of the users' drawings (OpenMoji).
        weights: [features] weight of each feature in the distance.
        learned: whether the weights were learned on a thing.
    """

    things: tuple[Thing, ...]
    features: NDArray[np.float64]
    asked: NDArray[np.float64]
    weights: NDArray[np.float64]
    learned: NDArray[np.bool_]

    def search(self, number: int, most: int = 3) -> list[int]:
        """Things whose catalogue drawing is nearest to the user's drawing of a thing, nearest first."""
        gaps = ((self.features - self.asked[number]) ** 2 * self.weights).sum(axis=1)
        return [int(n) for n in np.argsort(gaps, kind="stable")[:most]]

    def recall(self, only: NDArray[np.bool_]) -> float:
        """Share of things whose first hit is right."""
        return float(np.mean([self.search(int(n), 1)[0] == n for n in np.flatnonzero(only)]))


@lru_cache(maxsize=4)
def make_catalogue(count: int = 240) -> Catalogue:
    """Draw `count` things by both studios and learn the weights on every second one.

    Raises:
        MissingExtra: the studios' packages are not installed.
    """
    known = things()
    chosen = tuple(known[n] for n in np.linspace(0, len(known) - 1, count).astype(int))
    sides = [
        np.stack([features(draw(t.code, s, size=SIZE)) for t in chosen]) for s in ("twemoji", "openmoji")
    ]
    learned = np.arange(count) % 2 == 0
    within = ((sides[0] - sides[1])[learned] ** 2).mean(axis=0) / 2
    between = np.concatenate([side[learned] for side in sides]).var(axis=0)
    weights = between / (within + 0.1 * within.mean()) / (between.mean() + 1e-12)
    return Catalogue(chosen, sides[0], sides[1], weights / (between + 1e-3), learned)


def features(picture: Image.Image) -> NDArray[np.float64]:
    """Colours and edges of a picture: a coarse grid of colours, a histogram of colours, and one of gradients a cell."""
    flat = Image.new("RGBA", picture.size, "white")
    flat.alpha_composite(picture)
    pixels = np.asarray(flat.convert("RGB"), float) / 255
    mask = np.asarray(picture)[:, :, 3] > 64
    grid = (
        pixels[: SIZE // 6 * 6, : SIZE // 6 * 6]
        .reshape(6, SIZE // 6, 6, SIZE // 6, 3)
        .mean(axis=(1, 3))
        .ravel()
    )
    own = pixels[mask] if mask.any() else pixels.reshape(-1, 3)
    histogram = np.histogramdd(own, bins=(4, 4, 4), range=((0, 1),) * 3)[0].ravel() / len(own)
    grey = pixels.mean(axis=2)
    dy, dx = np.gradient(grey)
    strength, angle = np.hypot(dx, dy), (np.arctan2(dy, dx) % np.pi / np.pi * 6).astype(int) % 6
    cells = [
        np.bincount(angle[r : r + 12, c : c + 12].ravel(), strength[r : r + 12, c : c + 12].ravel(), 6)
        for r in range(0, SIZE, 12)
        for c in range(0, SIZE, 12)
    ]
    edges = np.concatenate(cells)
    edges = edges / (np.linalg.norm(edges) + 1e-9)
    return np.concatenate([grid, np.sqrt(histogram), edges])


def collage(catalogue: Catalogue, numbers: Sequence[int], generator: np.random.Generator) -> Image.Image:
    """A picture of several things on white; they may touch, which is what makes counting hard."""
    scene = Image.new("RGBA", (4 * SIZE, 2 * SIZE), "white")
    places = generator.permutation(8)[: len(numbers)]
    for place, number in zip(places.tolist(), numbers, strict=True):
        x, y = place % 4 * SIZE, place // 4 * SIZE
        shift = generator.integers(-4, 5, 2)
        one = draw(catalogue.things[number].code, "openmoji", size=SIZE)
        scene.alpha_composite(
            one, (int(np.clip(x + shift[0], 0, 3 * SIZE)), int(np.clip(y + shift[1], 0, SIZE)))
        )
    return scene


def detect(scene: Image.Image, *, least: int = 60) -> int:
    """Number of connected regions that are not white, of at least `least` pixels."""
    from scipy.ndimage import binary_dilation, label

    ink = np.asarray(scene.convert("L"), int) < 245
    regions, count = label(binary_dilation(ink, iterations=1))
    sizes = np.bincount(regions.ravel())[1:]
    return int((sizes >= least).sum()) if count else 0
