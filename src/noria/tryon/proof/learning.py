"""One arm of the proof: the real transformer at micro size, trained on clips of the world, and judged on others."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noria.tryon.attention.segments import positions
from noria.tryon.model.transformer import ITryOnTransformer3DModel
from noria.tryon.pipeline.book import ChunkSegments
from noria.tryon.pipeline.captions import pack_actions
from noria.tryon.proof.world.acting import FRAMES
from noria.tryon.proof.world.clips import (
    SEGMENTS,
    SIZE,
    TIMES,
    VOCABULARY,
    MicroClips,
    Part,
    hypotheses,
    make_clips,
)
from noria.tryon.training.objective import Batch, draw_sigmas, flow_loss, velocity

TEXT_WIDTH = 16
BLOCK = 2
"""Pixels of a latent each way: the micro size has no autoencoder, but folds pixels into channels."""
CODED = 3 * BLOCK * BLOCK
MARGIN = 1
"""Columns at each side that the mask leaves out: one box for every clip, which tells nothing."""


@dataclass(frozen=True)
class Arm:
    """Settings of an arm.

    Attributes:
        task: clips that are judged, and trained on where nothing else is said: `captions` (E1), `hands` (E2), `ladder`.
        trained_on: clips that are trained on in their place: `sparse` (E3), `passive`.
        reads: whether captions of actions are read; in `hands` they are not.
        mode, context, index, scale: those of `ITryOnTransformer3DModel`.
        stamped: whether captions say their segment in a word of their own.
        sees: what is known of the hands: `nothing`, the `wrist`, all `keypoints`, or the `map`.
        constraint: weight of the action-aware constraint.
    """

    task: str = "captions"
    trained_on: str = ""
    reads: bool = True
    mode: str = "rope"
    context: str = "decoupled"
    index: str = "anchored"
    scale: float = 4.0
    stamped: bool = False
    sees: str = "nothing"
    constraint: float = 0.5


@dataclass(frozen=True)
class Scale:
    """Size of a proof.

    Attributes:
        steps: steps of training.
        clips: number of training clips.
        judged: number of judged clips.
        batch: clips of a step.
        sampling: Euler steps of a sample.
    """

    steps: int = 2000
    clips: int = 768
    judged: int = 96
    batch: int = 8
    sampling: int = 8


def run_arm(
    name: str, arm: Mapping[str, Any], seed: int, rate: float, scale: Mapping[str, Any], part: Part = "judge"
) -> dict[str, Any]:
    """Train and judge an arm; JSON in and out.

    Args:
        name: name of the arm, for the progress line.
        arm: fields of `Arm`.
        seed: seed of weights, draws and clips.
        rate: learning rate.
        scale: fields of `Scale`.
        part: clips that it is judged on; `tune` to choose its settings.
    """
    from noria.core.runs.workers import report

    settings, size = Arm(**arm), Scale(**scale)
    torch.set_num_threads(1)
    began = time.process_time()
    task = settings.trained_on or settings.task
    clips = make_clips(size.clips, task, seed, "train")  # type: ignore[arg-type]
    model = new_model(settings, seed)
    train(
        model,
        settings,
        clips,
        size,
        seed,
        rate,
        lambda step, loss: report(step, size.steps, f"loss {loss:.3f}"),
    )
    trained = time.process_time()
    judged = make_clips(size.judged, settings.task, seed, part)  # type: ignore[arg-type]
    figures, strip = judge(model, settings, judged, size.sampling, seed)
    return figures | {
        "strip": strip,
        "parameters": sum(p.numel() for p in model.parameters()),
        "cpu_seconds": trained - began,
        "arm": asdict(settings),
    }


def new_model(arm: Arm, seed: int) -> ITryOnTransformer3DModel:
    """The real transformer class at the pilot's size, 0.4 million parameters, from random weights."""
    torch.manual_seed(seed)
    model = ITryOnTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=32,
        in_channels=CODED,
        out_channels=CODED,
        text_dim=TEXT_WIDTH,
        freq_dim=64,
        ffn_dim=128,
        num_layers=4,
        vace_layers=[0, 2],
        vace_in_channels=2 * CODED + BLOCK * BLOCK,
        rope_max_seq_len=32,
        arope_mode=arm.mode,
        arope_context=arm.context,
        arope_index=arm.index,
        arope_scale=arm.scale,
        hand_in_channels=CODED + 1,
        guider_dim=32,
        guider_layers=1,
    )
    for name, value in model.named_parameters():
        if name.endswith(".action_gate"):  # closed gates protect a pretrained model, and there is none here
            torch.nn.init.ones_(value)
    return model  # type: ignore[no-any-return]


def train(
    model: ITryOnTransformer3DModel,
    arm: Arm,
    clips: MicroClips,
    scale: Scale,
    seed: int,
    rate: float,
    on_step: Any = None,
) -> None:
    """AdamW with a cosine to zero; step n draws from (seed, n)."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    for step in range(scale.steps):
        for group in optimizer.param_groups:
            warm = min(1.0, (step + 1) / 50)
            group["lr"] = rate * warm * 0.5 * (1 + math.cos(math.pi * step / scale.steps))
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        rows = torch.randint(len(clips.videos), (scale.batch,), generator=generator).tolist()
        batch = micro_batch(clips, rows, arm)
        noise = torch.randn(batch.clean.shape, generator=generator)
        loss, _ = flow_loss(
            model, batch, draw_sigmas(scale.batch, generator, "logit_normal"), noise, weight=arm.constraint
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if on_step is not None and step % 20 == 0:
            on_step(step, float(loss.detach()))


def micro_batch(clips: MicroClips, rows: Sequence[int], arm: Arm, captions: Any = None) -> Batch:
    """Clips as the transformer takes them, the garment as a reference frame.

    Args:
        clips: the clips.
        rows: numbers of those of the batch.
        arm: what it may see.
        captions: captions in the place of the clips' own, by row.
    """
    videos = torch.from_numpy(clips.videos[rows])
    mask = torch.zeros(len(rows), 1, *videos.shape[2:])
    mask[..., MARGIN:-MARGIN] = 1
    painted = _painted(clips, rows, arm)
    control = torch.cat([fold(videos * (1 - mask)), fold(painted * mask), fold(mask)], dim=1)
    reference = fold(torch.from_numpy(clips.garments[rows])[:, :, None])
    lead = torch.cat(
        [reference, reference.new_zeros(len(rows), control.shape[1] - CODED, *reference.shape[2:])], dim=1
    )
    acting = torch.from_numpy(clips.actions[rows] > 0).float().repeat_interleave(FRAMES, dim=1)
    hands = None
    if arm.sees == "map":
        where = torch.from_numpy(clips.where[rows]).float()[:, None]
        seen = torch.nn.functional.max_pool3d(where, (1, BLOCK, BLOCK))
        hands = torch.cat([fold(torch.from_numpy(clips.hands[rows])), seen], dim=1)
    return Batch(
        torch.cat([reference, fold(videos)], dim=2),
        torch.cat([lead, control], dim=2),
        words(("a", "video", "of", "clothes")).expand(len(rows), -1, -1),
        torch.nn.functional.pad(acting, (1, 0)),
        1,
        _actions(clips, rows, arm, captions),
        hands,
    )


def _painted(clips: MicroClips, rows: Sequence[int], arm: Arm) -> Tensor:
    """What is drawn inside the mask: nothing, the wrist, or all joints."""
    painted = torch.zeros(len(rows), *clips.videos.shape[1:])
    points = {
        "wrist": clips.wrists[:, :, None],
        "map": clips.wrists[:, :, None],
        "keypoints": clips.keypoints,
    }
    if arm.sees not in points:
        return painted
    for place, row in enumerate(rows):
        for frame, joints in enumerate(points[arm.sees][row]):
            for x, y in joints[np.isfinite(joints).all(-1)].astype(int):
                if 0 <= x < SIZE and 0 <= y < SIZE:
                    painted[place, :, frame, y, x] = 1
    return painted


def _actions(clips: MicroClips, rows: Sequence[int], arm: Arm, captions: Any) -> Any:
    if arm.task == "hands" or not arm.reads:
        return None
    encoded, segments = [], []
    for place, row in enumerate(rows):
        given = clips.captions[row] if captions is None else captions[place]
        known = [segment for segment in range(SEGMENTS) if given[segment]]
        table = torch.tensor([known.index(s) + 1 if s in known else 0 for s in range(SEGMENTS)])
        queries, keys = positions(table.repeat_interleave(FRAMES), arm.index)
        texts = [given[s] + ((TIMES[s],) if arm.stamped else ()) for s in known]
        encoded.append([words(text)[0] for text in texts])
        segments.append(
            ChunkSegments(queries, tuple(map(str, texts)), tuple(keys[n + 1] for n in range(len(known))))
        )
    empty = words(("of",))[0] * 0 if arm.context == "joint" else None
    return pack_actions(encoded, segments, 1, empty)


@cache
def _embedding() -> Tensor:
    """A frozen random vector for each word, in the place of a text encoder."""
    return torch.randn(len(VOCABULARY), TEXT_WIDTH, generator=torch.Generator().manual_seed(7))


def words(text: Sequence[str]) -> Tensor:
    """Vectors of words `[1, words, width]`, each with its place in the caption."""
    states = _embedding()[[VOCABULARY.index(word) for word in text]]
    places = torch.linspace(-1, 1, TEXT_WIDTH) * torch.arange(len(text))[:, None] * 0.3
    return (states + places)[None]


def fold(video: Tensor) -> Tensor:
    """Blocks of pixels into channels: `[batch, channels, frames, h, w]` to `[batch, 4 channels, frames, h/2, w/2]`."""
    batch, channels, frames, height, width = video.shape
    blocks = video.reshape(batch, channels, frames, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    return blocks.permute(0, 1, 4, 6, 2, 3, 5).reshape(batch, -1, frames, height // BLOCK, width // BLOCK)


def unfold(latents: Tensor) -> Tensor:
    """The way back of `fold`."""
    batch, channels, frames, height, width = latents.shape
    blocks = latents.reshape(batch, channels // BLOCK**2, BLOCK, BLOCK, frames, height, width)
    return blocks.permute(0, 1, 4, 5, 2, 6, 3).reshape(batch, -1, frames, height * BLOCK, width * BLOCK)


@torch.no_grad()
def sample(model: ITryOnTransformer3DModel, batch: Batch, steps: int, seed: int) -> Tensor:
    """Videos by Euler steps from noise of a seed `[batch, 3, frames, size, size]` in -1 .. 1."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch.clean.shape, generator=generator)
    grid = torch.linspace(1, 0, steps + 1)
    for now, then in itertools.pairwise(grid):
        x = x + (then - now) * velocity(model, batch, x, now.expand(len(x)))
    return unfold(x[:, :, batch.references :]).clamp(-1, 1)


def judge(
    model: ITryOnTransformer3DModel, arm: Arm, clips: MicroClips, steps: int, seed: int
) -> tuple[dict[str, float], list[Any]]:
    """Sample the judged clips, and name each segment by the nearest of what it could be.

    Returns:
        `segment_accuracy` over all segments, `idle_share` of them that naming none would have right, `action_accuracy`
        over those with an action, `idle_accuracy` over the others, `clip_accuracy` over clips (all segments right),
        `swapped` over those with an action (named as the clip's other action), and mean squares on frames with an
        action and without; then pictures of the first clips, truth above the sample.
    """
    made = torch.cat(
        [
            sample(model, micro_batch(clips, rows, arm), steps, 9000 + seed * 100 + rows[0])
            for rows in _parts(len(clips.videos), 16)
        ]
    ).numpy()
    truth, named = clips.actions, nearest(made, clips)
    acts = truth > 0
    error = np.square(made - clips.videos).mean(axis=(1, 3, 4)).reshape(len(made), SEGMENTS, FRAMES).mean(-1)
    others = np.array(
        [[next((a for a in row if a and a != own), -1) for own in row] for row in truth.tolist()]
    )
    figures = {
        "segment_accuracy": float((named == truth).mean()),
        "idle_share": float((~acts).mean()),
        "action_accuracy": float((named == truth)[acts].mean()),
        "idle_accuracy": float((named == truth)[~acts].mean()),
        "clip_accuracy": float((named == truth).all(axis=1).mean()),
        "swapped": float((named == others)[acts].mean()),
        "action_error": float(error[acts].mean()),
        "idle_error": float(error[~acts].mean()),
    }
    pair = np.concatenate([clips.videos[:4], made[:4]], axis=3)
    return figures, ((pair + 1) * 127.5).round().astype(int).transpose(0, 2, 3, 4, 1).tolist()


def nearest(made: Any, clips: MicroClips) -> Any:
    """Number of the action that each segment looks most like `[clips, segments]`, 0 for the idle garment."""
    could = hypotheses(clips)
    parts = made.reshape(len(made), 3, SEGMENTS, FRAMES, SIZE, SIZE).transpose(0, 2, 3, 1, 4, 5)
    distance = np.square(parts[:, :, None] - could[:, None]).mean(axis=(3, 4, 5, 6))
    return distance.argmin(-1)


def _parts(number: int, size: int) -> list[list[int]]:
    return [list(range(start, min(number, start + size))) for start in range(0, number, size)]
