"""SynthOCEAN's pictures and sound, drawn with NumPy: all frames of a clip at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.grounding.corpus.clips import write_clip
from noria.grounding.synth.config import Knobs
from noria.grounding.synth.world import BEHAVIOURS, SECONDS, SEGMENTS, Scene

__all__ = ["HUES", "draw", "frame_times", "render", "sound"]

RATE = 16_000
HUES = ((214, 60, 60), (226, 160, 40), (70, 160, 80), (60, 110, 210), (150, 80, 190))
"""Colours of the shirt's stripes, by level."""
EASE = 0.25
"""Seconds in which a behaviour comes and goes."""
TONES = ((1.6, 1.0), (0.45, 1.0), (1.0, 1.45), (1.0, 0.7))
"""Loudness and pitch of each state of the voice."""


def frame_times(knobs: Knobs) -> NDArray[np.float64]:
    """[frames] of a clip, in seconds."""
    return np.arange(round(SEGMENTS * SECONDS * knobs.fps)) / knobs.fps


def amplitudes(scene: Scene, times: NDArray[np.float64], visibility: float) -> NDArray[np.float64]:
    """[12, times] how far each behaviour is under way, 0 … 1: cosine flanks inside of its segment."""
    segment = np.minimum((times / SECONDS + 1e-9).astype(int), SEGMENTS - 1)
    inside = times - segment * SECONDS
    edge = np.minimum(inside, SECONDS - inside)
    height = visibility * 0.5 * (1 - np.cos(np.pi * np.clip(edge / EASE, 0, 1)))
    heights = np.zeros((len(BEHAVIOURS), len(times)))
    heights[np.array(scene.behaviours)[segment], np.arange(len(times))] = height
    return heights


def draw(scene: Scene, knobs: Knobs, times: NDArray[np.float64] | None = None) -> NDArray[np.uint8]:
    """[times, height, width, 3]; every frame of the clip by default. Lengths below are in units of the height."""
    times = frame_times(knobs) if times is None else np.asarray(times, dtype=float)
    height, width = knobs.height, knobs.width
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / height
    aspect = width / height
    canvas = np.empty((len(times), height, width, 3), np.float32)
    canvas[:] = np.array(scene.look.wall, np.float32)
    _shirt(canvas, scene, x, y, aspect)
    moves = amplitudes(scene, times, knobs.visibility)
    side = np.array(scene.right)[np.minimum((times / SECONDS + 1e-9).astype(int), SEGMENTS - 1)]
    for right in (False, True):  # only the columns about the head are painted: a third of the work
        mine = np.flatnonzero(side == right)
        centre = aspect * (0.67 if right else 0.33)
        columns = np.flatnonzero(np.abs(x[0] - centre) < 0.32)
        about = slice(columns[0], columns[-1] + 1)
        part = np.ascontiguousarray(canvas[mine, :, about])
        _head(
            part, scene, x[:, about] - np.float32(centre), y - np.float32(0.38), moves[:, mine], times[mine]
        )
        canvas[mine, :, about] = part
    for place, raised in ((0.12, moves[10]), (0.88, moves[11])):
        shown = np.flatnonzero(raised > 0)
        columns = np.flatnonzero(np.abs(x[0] - aspect * place) < 0.1)
        about = slice(columns[0], columns[-1] + 1)
        part = np.ascontiguousarray(canvas[shown, :, about])
        rise = (1.15 - 0.55 * raised[shown])[:, None, None].astype(np.float32)
        far = np.sqrt((x[:, about] - np.float32(aspect * place)) ** 2 + (y[:, about] - rise) ** 2) - 0.085
        _paint(part, far, scene.look.skin)
        canvas[shown, :, about] = part
    pixels: NDArray[np.uint8] = np.clip(canvas + 0.5, 0, 255).astype(np.uint8)
    return pixels


def _paint(canvas: NDArray[np.float32], distance: NDArray[Any], colour: tuple[int, int, int]) -> None:
    """Colour [t, h, w, 3] where distance [t, h, w] < 0, with an edge about a pixel soft."""
    cover = np.clip(0.5 - distance * (canvas.shape[1] / 1.5), 0, 1)[..., None]
    canvas += cover * (np.array(colour, np.float32) - canvas)


def _head(
    canvas: NDArray[np.float32],
    scene: Scene,
    dx: NDArray[np.float32],
    dy: NDArray[np.float32],
    moves: NDArray[np.float64],
    times: NDArray[np.float64],
) -> None:
    """Paint the head; dx, dy: [h, w] from its centre, moves: [12, t]."""
    smile, frown, lift, furrow, left, right, tilt_l, tilt_r, near, far, _, _ = moves

    def wide(values: NDArray[np.float64]) -> NDArray[np.float32]:
        return values[:, None, None].astype(np.float32)

    # The head's own coordinates: turned, scaled.
    angle, size = 0.38 * (tilt_r - tilt_l), wide(1 + 0.28 * near - 0.24 * far)
    cos, sin = wide(np.cos(angle)), wide(np.sin(angle))
    dy = dy[:, : dx.shape[1]]
    u, v = (dx * cos + dy * sin) / size, (dy * cos - dx * sin) / size

    def oval(u0: Any, v0: Any, a: float, b: float) -> NDArray[Any]:
        """Distance from an ellipse's edge, about."""
        distance: NDArray[Any] = (np.sqrt(((u - u0) / a) ** 2 + ((v - v0) / b) ** 2) - 1) * min(a, b)
        return distance

    _paint(canvas, oval(0.0, -0.05, 0.185, 0.23), scene.look.hair)
    _paint(canvas, oval(0.0, 0.02, 0.16, 0.21), scene.look.skin)
    gaze = wide(0.024 * (right - left))
    dark = (24, 24, 30)
    for eye in (-0.068, 0.068):
        _paint(canvas, oval(eye, -0.03, 0.042, 0.026), (250, 250, 250))
        _paint(canvas, oval(eye + gaze, -0.03, 0.017, 0.02), dark)
        # A brow is a bar: it rises with `lift`; with `furrow` it goes inwards and down.
        inward = wide(-np.sign(eye) * 0.03 * furrow)
        level = wide(-0.09 - 0.042 * lift + 0.028 * furrow)
        _paint(canvas, np.maximum(np.abs(u - eye - inward) - 0.045, np.abs(v - level) - 0.011), dark)
    curve = wide(0.06 * (frown - smile))
    talk = wide(0.006 * (1 + np.sin(2 * np.pi * 4 * times)))
    lip = 0.115 + curve * ((u / 0.075) ** 2 - 0.5)
    _paint(canvas, np.maximum(np.abs(u) - 0.075, np.abs(v - lip) - 0.009 - talk), (150, 40, 50))


def _shirt(
    canvas: NDArray[np.float32], scene: Scene, x: NDArray[np.float32], y: NDArray[np.float32], aspect: float
) -> None:
    """The lowest fifth of the frame: five stripes over its middle three fifths."""
    low = y[:, 0] >= 0.8
    share = (x[0] / aspect - 0.2) / 0.6
    for stripe in range(5):
        columns = (share >= stripe / 5) & (share < (stripe + 1) / 5)
        canvas[:, low[:, None] & columns[None, :]] = np.array(HUES[scene.stripes[stripe]], np.float32)


def sound(scene: Scene) -> NDArray[np.float32]:
    """[samples] at 16 kHz in −1 … 1: a voiced tone of syllables, its loudness and pitch by the state of the voice."""
    t = np.arange(round(SEGMENTS * SECONDS * RATE)) / RATE
    segment = np.minimum((t / SECONDS + 1e-9).astype(int), SEGMENTS - 1)
    loud, high = np.array([TONES[v] for v in scene.voices]).T[:, segment]
    phase = 2 * np.pi * np.cumsum(scene.look.pitch * high) / RATE
    syllable = 0.5 - 0.5 * np.cos(2 * np.pi * 4 * t)
    wave = np.sin(phase) + 0.4 * np.sin(2 * phase) + 0.2 * np.sin(3 * phase)
    samples: NDArray[np.float32] = (0.22 * loud * syllable * wave).astype(np.float32)
    return samples


def render(scene: Scene, knobs: Knobs, path: Path) -> None:
    """Write the clip as an mp4 with sound.

    Raises:
        RunError: the disk refuses.
        MissingExtra: there is no PyAV.
    """
    write_clip(path, draw(scene, knobs), fps=knobs.fps, sound=sound(scene), rate=RATE)
