"""The page of a clip: source, mask, hands and result side by side in one video, actions on a time line, faults."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from noria.core.pages.charts import Figure
from noria.core.pages.report import write_page
from noria.tryon.video.clips import Clip, encode_clip

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from noria.core.pages.report import Block
    from noria.tryon.actions.reading import Action
    from noria.tryon.pipeline.inputs import ClipInputs

PANEL = 320
"""Most pixels of a panel's width."""
MASKED = np.array([255, 90, 40])
HAND = np.array([40, 160, 255])
ACTION = np.array([245, 165, 35])
REST = np.array([70, 74, 82])
STRIP = 10
"""Height in pixels of the time line under the panels."""


def write_clip_page(
    path: Path,
    inputs: ClipInputs,
    *,
    title: str,
    intro: str,
    result: NDArray[np.uint8] | None = None,
    more: Sequence[tuple[str, Sequence[Block]]] = (),
) -> None:
    """Write the page of a clip.

    Args:
        path: file of the page.
        inputs: the clip and what belongs to it.
        title: title of the page.
        intro: text under the title.
        result: generated frames, or None.
        more: sections after the clip's.

    Raises:
        RunError: the disk refuses.
    """
    names, panels = side_by_side(inputs, result)
    mp4 = encode_clip(panels, inputs.clip.seconds.tolist(), crf=22)
    caption = f"From left to right: {', '.join(names)}. Below them the time line; actions are orange."
    blocks: list[Block] = [Figure.video("Side by side", mp4, caption)]
    if inputs.actions:
        blocks += [timeline(inputs.actions, inputs.clip.duration), action_table(inputs.actions)]
    sections = [("Clip", blocks), ("Findings", findings(inputs)), *more]
    write_page(path, title, sections, intro=intro, footer="Made by noria tryon.")


def side_by_side(inputs: ClipInputs, result: NDArray[np.uint8] | None) -> tuple[list[str], NDArray[np.uint8]]:
    """Names of the panels, and the panels beside one another over a time line `[frames, height, width, 3]`."""
    source = shrunk(inputs.clip.frames)
    step = source.shape[1:3]
    panels, names = [source], ["source"]
    if inputs.mask is not None:
        panels.append(_tinted(source, shrunk(inputs.mask.numpy(), step), MASKED))
        names.append("mask")
    if inputs.drawn is not None:
        panels.append(_tinted(source, shrunk(inputs.drawn, step), HAND))
        names.append("hands")
    if inputs.pose is not None:
        panels.append(shrunk(inputs.pose, step))
        names.append("pose")
    if result is not None:
        panels.append(shrunk(result, step))
        names.append("result")
    wide = np.concatenate(panels, axis=2)
    strip = _strip(inputs.clip, inputs.actions, wide.shape[2])
    whole = np.concatenate([wide, strip], axis=1)
    return names, whole[:, : whole.shape[1] // 2 * 2, : whole.shape[2] // 2 * 2]


def shrunk(frames: NDArray[Any], size: tuple[int, int] | None = None) -> NDArray[Any]:
    """Frames at the size of a panel, by picking pixels; already small ones stay as they are."""
    height, width = frames.shape[1:3]
    share = min(1.0, PANEL / width)
    size = size or (max(2, round(height * share) // 2 * 2), max(2, round(width * share) // 2 * 2))
    rows = (np.arange(size[0]) * height / size[0]).astype(int)
    columns = (np.arange(size[1]) * width / size[1]).astype(int)
    return frames[:, rows[:, None], columns]


def _tinted(frames: NDArray[np.uint8], where: NDArray[np.bool_], colour: NDArray[Any]) -> NDArray[np.uint8]:
    return np.where(where[..., None], frames // 2 + colour // 2, frames).astype(np.uint8)


def _strip(clip: Clip, actions: Sequence[Action], width: int) -> NDArray[np.uint8]:
    """A bar of the clip's time for each frame: actions, and where the frame is."""
    seconds = (np.arange(width) + 0.5) / width * clip.duration
    bar = np.broadcast_to(REST, (STRIP, width, 3)).astype(np.uint8)
    for action in actions:
        bar[:, (action.start <= seconds) & (seconds < action.end)] = ACTION
    strips = np.repeat(bar[None], len(clip.frames), axis=0)
    for number, at in enumerate(clip.seconds):
        place = int(at / clip.duration * width)
        strips[number, :, max(0, place - 1) : place + 2] = 255
    return strips


def timeline(actions: Sequence[Action], duration: float) -> Figure:
    """Actions as bars over the seconds of the clip."""
    import altair as alt

    rows = [
        {"action": f"{n}. {a.caption[:48]}", "start": a.start, "end": min(a.end, duration)}
        for n, a in enumerate(actions, 1)
    ]
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_bar()
        .encode(
            x=alt.X("start:Q", title="seconds", scale=alt.Scale(domain=[0, duration])),
            x2="end:Q",
            y=alt.Y("action:N", title=None, sort=None),
        )
        .properties(height=28 * len(rows))
    )
    return Figure.chart("Actions over time", chart)


def action_table(actions: Sequence[Action]) -> Figure:
    """Actions with their times and captions."""
    rows: list[list[str | float]] = [
        [n, action.start, action.end, action.caption] for n, action in enumerate(actions, 1)
    ]
    return Figure.table("Actions", ["number", "from (s)", "to (s)", "caption"], rows)


def findings(inputs: ClipInputs) -> list[Block]:
    """What was found in the clip and its parts, faults among it."""
    clip, hands = inputs.clip, inputs.hands
    steps = np.diff(clip.seconds)
    uneven = bool(len(steps)) and float(steps.max() - steps.min()) > 0.25 * float(np.median(steps))
    rows: list[list[str | float]] = [
        ["frames", len(clip.frames)],
        ["size", f"{clip.size[1]} × {clip.size[0]}"],
        ["duration (s)", clip.duration],
        ["frames a second", f"{clip.fps:.3f}{', variable' if uneven else ''}"],
    ]
    if inputs.mask is not None:
        rows += [
            ["share of pixels in the mask", float(inputs.mask.float().mean())],
            ["frames with a doubtful mask", len(inputs.faults)],
        ]
    if hands is not None:
        rows += [
            ["hands dropped as impossible", hands.track.dropped],
            ["frames with left and right exchanged", hands.swapped],
            ["hands interpolated", hands.filled],
            ["hands missing", hands.missing],
        ]
    blocks: list[Block] = [Figure.table("What is there", ["what", "value"], rows)]
    if inputs.faults:
        table = [
            [fault.frame, float(clip.seconds[fault.frame]), fault.reason] for fault in inputs.faults[:200]
        ]
        blocks.append(Figure.table("Doubtful masks", ["frame", "second", "why"], table))
    return blocks
