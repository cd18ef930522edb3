"""Clips of the world at the micro size: four segments of two frames, garments of any colour, captions."""

from __future__ import annotations

import colorsys
import itertools
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from noria.tryon.hands.rendering import render
from noria.tryon.hands.track import HandTrack
from noria.tryon.proof.world.acting import FRAMES, IDLE, Motions, camera, simulate
from noria.tryon.proof.world.drawing import draw, garment_colours

SIZE = 16
SEGMENTS = 4
ACTIONS = ("unzip", "hem", "stretch")
"""Actions of the micro size, as many as the pilot had; the other three are too small for its pixels, or like these."""
Part = Literal["train", "tune", "judge"]
VARIATIONS: dict[Part, tuple[int, int]] = {"train": (0, 36), "tune": (36, 48), "judge": (48, 60)}
"""First variation of each motion, and the one after the last, by what the clips are for."""
HUES: dict[Part, tuple[float, float]] = {"train": (0.0, 0.5), "tune": (0.5, 0.75), "judge": (0.75, 1.0)}
"""Part of each sixth of the circle of hues that the clips' colours are from."""
WORDS = {
    "unzip": ("unzips", "zipper", "undoes"),
    "hem": ("lifts", "hem", "raises"),
    "stretch": ("stretches", "pulls", "widens"),
}
SUBJECTS, MANNERS = ("she", "he", "someone"), ("slowly", "quickly", "gently")
TIMES = tuple(f"segment{n}" for n in range(SEGMENTS))
VOCABULARY = (
    "a",
    "video",
    "of",
    "clothes",
    *SUBJECTS,
    *MANNERS,
    *itertools.chain(*WORDS.values()),
    *TIMES,
)
Task = Literal["captions", "sparse", "hands", "passive", "ladder"]
RARE = 0.25
"""Share of the sparse clips that have an action, in one segment: 6 % of the frames, as the paper's 5 to 10 %."""
SEEN = 0.5
"""Share of the segments of a ladder's clips whose hand an estimator of hands saw."""


@dataclass(frozen=True)
class MicroClips:
    """Clips, and all that is known of them.

    Attributes:
        videos: pixels in -1 .. 1 `[clips, 3, frames, size, size]`.
        garments: the garment at rest, flat on white `[clips, 3, size, size]`.
        actions: number of each segment's action, 0 for none `[clips, segments]`.
        captions: words of each segment's caption; empty where it has none.
        wrists: the wrist in pixels, NaN where no hand is `[clips, frames, 2]`.
        keypoints: all joints in pixels `[clips, frames, 21, 2]`.
        hands: depth and normals `[clips, 3, frames, size, size]` in -1 .. 1.
        where: where a hand is `[clips, frames, size, size]`.
        colours: colours of the garment's points.
        world: number of the library that the motions are from.
    """

    videos: NDArray[np.float32]
    garments: NDArray[np.float32]
    actions: NDArray[np.int64]
    captions: list[list[tuple[str, ...]]]
    wrists: NDArray[np.float64]
    keypoints: NDArray[np.float64]
    hands: NDArray[np.float32]
    where: NDArray[np.bool_]
    colours: NDArray[np.float32]
    world: int


@cache
def motions(world: int) -> dict[tuple[str, bool], Motions]:
    """Variations of each action with contact, the same without, and the idle garment; simulated once a process."""
    number, library = VARIATIONS["judge"][1], {}
    for place, name in enumerate((IDLE, *ACTIONS)):
        for contact in (True, False):
            generator = np.random.default_rng([world, place])
            library[name, contact] = simulate([name] * number, np.full(number, contact), generator)
    return library


def make_clips(number: int, task: Task, seed: int, part: Part) -> MicroClips:
    """Make clips of the world at the micro size.

    In `captions`, two segments have different actions and no picture tells which; in `sparse`, one segment of a quarter
    of the clips has one. In `hands`, every segment has a hand on an action's path, which touches the cloth in half of
    them and hovers before it in the others; in `passive` it hovers in all. A `ladder` is `hands` with a hand map of
    half of the segments alone, so that the hands do not tell all.

    Args:
        number: number of clips.
        task: what has to be understood.
        seed: seed of the draws, and number of the library of motions.
        part: what the clips are for; each has variations, colours and wordings of its own.
    """
    generator, library = np.random.default_rng([seed, list(VARIATIONS).index(part)]), motions(seed)
    actions = np.zeros((number, SEGMENTS), np.int64)
    paths = np.zeros((number, SEGMENTS), np.int64)
    for row in range(number):
        if task == "captions":
            places = generator.choice(SEGMENTS, 2, replace=False)
            actions[row, places] = generator.choice(len(ACTIONS), 2, replace=False) + 1
            paths[row] = actions[row]
        elif task == "sparse":
            if generator.random() < RARE:
                actions[row, generator.integers(SEGMENTS)] = generator.integers(1, len(ACTIONS) + 1)
            paths[row] = actions[row]
        else:
            paths[row] = generator.integers(1, len(ACTIONS) + 1, SEGMENTS)
            touches = generator.random(SEGMENTS) < (0.0 if task == "passive" else 0.5)
            actions[row] = np.where(touches, paths[row], 0)
    which = generator.integers(*VARIATIONS[part], (number, SEGMENTS))
    keys = [
        [((IDLE, *ACTIONS)[paths[r, s]], bool(actions[r, s]) or not paths[r, s]) for s in range(SEGMENTS)]
        for r in range(number)
    ]
    colours = np.stack([_colours(generator, part) for _ in range(number)])
    points = np.stack(
        [
            np.concatenate([library[key].points[pick] for key, pick in zip(row, picks, strict=True)])
            for row, picks in zip(keys, which, strict=True)
        ]
    )
    frames = SEGMENTS * FRAMES
    pictures = draw(points.reshape(-1, *points.shape[2:]), np.repeat(colours, frames, axis=0), SIZE)
    pictures = pictures.reshape(number, frames, SIZE, SIZE, 3)
    captions = [[_caption(generator, a, part) for a in row] for row in actions.tolist()]
    maps = [
        _along([hand_maps(*key, seed) for key in row], picks) for row, picks in zip(keys, which, strict=True)
    ]
    pixels = np.stack([m[2] for m in maps])
    hands, where = np.stack([m[0] for m in maps]), np.stack([m[1] for m in maps])
    if task == "ladder":
        unseen = np.repeat(generator.random((number, SEGMENTS)) >= SEEN, FRAMES, axis=1)
        hands[unseen], where[unseen] = -1, False
    return MicroClips(
        (pictures * 2 - 1).transpose(0, 4, 1, 2, 3).copy(),
        np.stack([garment_picture(c) for c in colours]),
        actions,
        captions,
        pixels[:, :, 0],
        pixels,
        hands.transpose(0, 2, 1, 3, 4),
        where,
        colours,
        seed,
    )


def hypotheses(clips: MicroClips) -> NDArray[np.float32]:
    """What each clip's garment looks like in a segment of each action, the idle one first.

    They are drawn of the motions that are nearest to the mean of all variations, not of a clip's own.

    Returns:
        `[clips, actions + 1, frames of a segment, 3, size, size]` in -1 .. 1.
    """
    library, drawn = motions(clips.world), []
    for name in (IDLE, *ACTIONS):
        points = library[name, True].points
        spread = np.square(points - points.mean(0)).reshape(len(points), -1).sum(1)
        middle = points[spread.argmin()]
        for frame in middle:
            drawn.append(draw(np.repeat(frame[None], len(clips.colours), 0), clips.colours, SIZE))
    stacked = np.stack(drawn, 1) * 2 - 1
    stacked = stacked.reshape(len(clips.colours), len(ACTIONS) + 1, FRAMES, SIZE, SIZE, 3)
    return np.ascontiguousarray(stacked.transpose(0, 1, 2, 5, 3, 4)).astype(np.float32)


def garment_picture(colours: NDArray[np.float32]) -> NDArray[np.float32]:
    """A garment laid flat on white `[3, size, size]` in -1 .. 1."""
    rows, columns = colours.shape[:2]
    down, right = (((np.arange(12) + 0.5) / 12 * n).astype(int) for n in (rows, columns))
    picture = np.ones((SIZE, SIZE, 3), np.float32)
    picture[2:14, 2:14] = colours[down[:, None], right]
    return (picture * 2 - 1).transpose(2, 0, 1).copy()


def _colours(generator: np.random.Generator, part: Part) -> NDArray[np.float32]:
    """A base and a stripe; hues of the judged clips lie between those of the training."""

    def colour() -> NDArray[np.float64]:
        hue = (generator.integers(6) + generator.uniform(*HUES[part])) / 6
        return np.array(colorsys.hsv_to_rgb(hue, generator.uniform(0.6, 0.95), generator.uniform(0.6, 0.95)))

    return garment_colours(colour(), colour(), bool(generator.integers(2)))


def _caption(generator: np.random.Generator, action: int, part: Part) -> tuple[str, ...]:
    """A caption of known words; one in four combinations of words is not for training."""
    if action == 0:
        return ()
    every = itertools.product(range(len(SUBJECTS)), range(len(MANNERS)), range(3))
    allowed = [c for c in every if _wording(*c) == part]
    subject, manner, word = allowed[generator.integers(len(allowed))]
    return (SUBJECTS[subject], MANNERS[manner], WORDS[ACTIONS[action - 1]][word])


def _wording(subject: int, manner: int, word: int) -> Part:
    """What a combination of words is for."""
    if (subject + 2 * manner + word) % 4:
        return "train"
    return "judge" if manner else "tune"


Maps = tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64]]


@cache
def hand_maps(name: str, contact: bool, world: int) -> Maps:
    """Drawn hands of all variations of a motion, which are the same in every clip that has it.

    Returns:
        Depth and normals `[variations, frames, 3, size, size]`, where they are, and joints in pixels.
    """
    joints = motions(world)[name, contact].joints
    both = np.zeros((len(joints) * FRAMES, 2, *joints.shape[2:]), np.float32)
    both[:, 1] = joints.reshape(-1, *joints.shape[2:])
    valid = np.zeros((len(both), 2), np.bool_)
    valid[:, 1] = both[:, 1, 0, 1] < 1.2  # lower than that is out of the picture
    track = HandTrack(both, valid, camera(SIZE))
    video, where = render(track, (SIZE, SIZE), (1.1, 1.6))
    shape = (len(joints), FRAMES)
    pixels = track.projected()[:, 1]
    return (
        video.reshape(*shape, *video.shape[1:]),
        where.reshape(*shape, SIZE, SIZE),
        pixels.reshape(*shape, -1, 2),
    )


def _along(maps: list[Maps], picks: NDArray[np.int64]) -> Maps:
    """Maps of a clip's segments one after the other, along its frames."""
    video, where, pixels = (
        np.concatenate([part[kind][pick] for part, pick in zip(maps, picks, strict=True)])
        for kind in range(3)
    )
    return video, where, pixels
