"""A whole clip in another garment: crop, chunks that continue one another, one segment book, an exact blend.

A chunk takes over the last frames of the one before as frames that VACE keeps (mask 0). Autoencoders shift colours a
little each time; the shift is measured on these frames, whose values are known, and taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from noria.core.errors import DataError, DivergenceError
from noria.tryon.actions.reading import Action
from noria.tryon.hands.rendering import render
from noria.tryon.hands.track import HandTrack
from noria.tryon.pipeline.book import SegmentBook, make_book
from noria.tryon.pipeline.chunks import ChunkStore, digest_of
from noria.tryon.pipeline.conditions import Conditions
from noria.tryon.pipeline.pipeline import ITryOnPipeline
from noria.tryon.pipeline.settings import SamplingConfig
from noria.tryon.video.clips import Clip
from noria.tryon.video.framing import Fit, chunk_starts, fit, pad_frames, person_box, whole_frames
from noria.tryon.video.masks import blended

VERSION = "2"
"""Version of how chunks are made and kept; chunks and results of another one are not taken for the same."""
MOST_SHIFT = 0.1
"""Most that a colour is moved back between chunks, of the range -1 .. 1."""
PUT_BACK = 32
"""Frames that are put into the source at a time."""


@dataclass(frozen=True)
class Order:
    """What is to be made of a clip.

    Attributes:
        clip: the clip.
        mask: where the garment is `[frames, height, width]`.
        garments: pictures of the garments, bytes `[height, width, 3]`.
        prompt: caption of the whole clip.
        actions: timed actions.
        hands: hands of the clip, or None.
        pose: frames to paint inside the mask, bytes `[frames, height, width, 3]`, or None.
    """

    clip: Clip
    mask: Tensor
    garments: Sequence[NDArray[np.uint8]]
    prompt: str = ""
    actions: Sequence[Action] = ()
    hands: HandTrack | None = None
    pose: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        shape = self.clip.frames.shape
        if tuple(self.mask.shape) != shape[:3]:
            raise DataError(
                f"{list(self.mask.shape)} (frames, height, width), and the clip is {list(shape[:3])}",
                where="mask",
                mend="make the mask of this very clip",
            )
        if self.pose is not None and self.pose.shape != shape:
            raise DataError(f"{list(self.pose.shape)}, and the clip is {list(shape)}", where="pose")
        if self.hands is not None and len(self.hands.joints) != shape[0]:
            raise DataError(f"{len(self.hands.joints)} frames, and the clip has {shape[0]}", where="hands")
        if not self.garments:
            raise DataError("no picture of a garment", where="garment")
        if not bool(self.mask.any()):
            raise DataError(
                "the mask is empty in every frame", where="mask", mend="there is nothing to generate"
            )


@dataclass(frozen=True)
class DressResult:
    """A finished clip.

    Attributes:
        frames: pixels of the source's size and number `[frames, height, width, 3]`.
        book: actions by latent frame.
        fit: part of the frame that was generated, and its size.
        starts: first frame of each chunk.
        drift: colour shift of each chunk after the first before it was taken back, in levels of 255, mean over
            channels.
        resumed: number of chunks that were there already.
    """

    frames: NDArray[np.uint8]
    book: SegmentBook
    fit: Fit
    starts: list[int]
    drift: list[float] = field(default_factory=list)
    resumed: int = 0


def plan(order: Order, sampling: SamplingConfig) -> tuple[Fit, list[int], int, SegmentBook]:
    """Plan the generation of a clip: the part of the frame, first frames of chunks, their length, the segment book.

    Raises:
        DataError: the actions do not fit the clip.
    """
    height, width = order.clip.size
    whole = (0, 0, height, width)
    box = person_box(order.mask, sampling.crop_margin) if sampling.person_crop else whole
    frames = whole_frames(len(order.clip.frames))
    size = min(sampling.chunk_frames, frames)
    starts = [0] if size == 1 else chunk_starts(frames, size, min(sampling.chunk_overlap, size - 4))
    book = make_book(order.actions, padded_times(order.clip, frames), order.clip.duration)
    return fit(box, sampling.most_pixels), starts, size, book


def padded_times(clip: Clip, frames: int) -> list[float]:
    """Times of a clip that was padded to a number of frames; those of the padding lie after its end."""
    extra = frames - len(clip.seconds)
    return [*clip.seconds.tolist(), *(clip.duration + n / clip.fps for n in range(extra))]


def dress(
    pipeline: ITryOnPipeline,
    order: Order,
    sampling: SamplingConfig,
    *,
    seed: int = 0,
    store: ChunkStore | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> DressResult:
    """Generate a clip, chunk by chunk, and put it into its source.

    Args:
        pipeline: the model.
        order: the clip, its mask, the garment and all that goes with them.
        sampling: settings.
        seed: seed of the noise; chunk n draws from (seed, n).
        store: finished chunks of an earlier try, or None.
        on_step: called with the number of denoising steps done and of all.

    Raises:
        DataError: the parts of the order do not go together.
        DivergenceError: the model gave values that are not finite; nothing of that chunk is kept.
    """
    way, starts, size, book = plan(order, sampling)
    drawn = None if order.hands is None or not sampling.hand_scale else drawn_hands(order, way)
    frames = whole_frames(len(order.clip.frames))
    result = torch.zeros(3, frames, *way.canvas, dtype=torch.float16)  # a long clip fills the memory
    drift, resumed, previous, before = [], 0, "", 0
    for number, start in enumerate(starts):
        known = result[:, start : max(start, before)].float()
        stored = store.load(start, previous) if store else None
        if stored is None:
            given = _conditions(pipeline, order, way, book, (start, size), drawn, known)
            generator = torch.Generator().manual_seed(int(digest_of([seed, number])[:12], 16))
            done = number * sampling.steps
            step = None if on_step is None else (lambda n, of, done=done: on_step(done + n, of * len(starts)))
            video = pipeline(given, sampling, generator=generator, on_step=step)[0].cpu()
            if not bool(video.isfinite().all()):
                raise DivergenceError(f"chunk {number} is not finite", mend="try --precision fp32")
            video, shift = _anchored(video, known)
            video = video.half()  # as it is kept
            if store:
                store.save(start, previous, video, {"shift": shift})
        else:
            video, shift, resumed = stored[0], float(stored[1]["shift"]), resumed + 1
        drift += [shift] if number else []
        result[:, start : start + size] = _joined(known, video.float())
        previous, before = digest_of(previous, video), start + size
    return DressResult(_put_back(order, way, result, sampling.feather), book, way, starts, drift, resumed)


def order_key(order: Order, sampling: SamplingConfig, seed: int, model: str, *, screened: str = "") -> str:
    """Digest of everything that a chunk depends on but the chunk before it, and of what cleared it."""
    hands = None if order.hands is None else [order.hands.joints, order.hands.valid, order.hands.camera]
    return digest_of(
        order.clip.frames,
        order.clip.seconds,
        order.mask,
        *order.garments,
        *(hands or []),
        order.pose if order.pose is not None else b"",
        [
            order.prompt,
            [vars(action) for action in order.actions],
            sampling.model_dump(mode="json"),
            seed,
            model,
            screened,
            VERSION,
        ],
    )


def to_tensor(frames: NDArray[np.uint8]) -> Tensor:
    """Bytes `[frames, height, width, 3]` as `[3, frames, height, width]` in -1 .. 1."""
    return torch.tensor(frames).permute(3, 0, 1, 2).float() / 127.5 - 1


def drawn_hands(order: Order, way: Fit) -> tuple[Tensor, Tensor]:
    """Hands drawn on the canvas: `[3, frames, height, width]`, and where they are `[frames, height, width]`.

    They are drawn at the canvas' size, through a camera that sees just the part of the frame that is generated.
    """
    assert order.hands is not None
    top, left, height, width = way.box
    camera = order.hands.camera.copy()
    camera[0, 2], camera[1, 2] = camera[0, 2] - left, camera[1, 2] - top
    camera[0] *= way.inner[1] / width
    camera[1] *= way.inner[0] / height
    track = HandTrack(order.hands.joints, order.hands.valid, camera)
    video, where = render(track, way.canvas)
    return torch.from_numpy(video).transpose(0, 1), torch.from_numpy(where)


def _conditions(
    pipeline: ITryOnPipeline,
    order: Order,
    way: Fit,
    book: SegmentBook,
    span: tuple[int, int],
    drawn: tuple[Tensor, Tensor] | None,
    known: Tensor,
) -> Conditions:
    """Inputs of a chunk: frames `start .. start + size`, of which the first ones are known."""
    start, size = span
    part = slice(start, start + size)
    video = pad_frames(way.forward(to_tensor(order.clip.frames[part])), size)
    field = order.mask[part].float()[None]
    mask = pad_frames((way.forward(field) > 0.5).float(), size)
    painted = torch.zeros_like(video)
    if order.pose is not None:
        painted = pad_frames(way.forward(to_tensor(order.pose[part])), size)
    kept = known.shape[1]
    painted[:, :kept] = known
    video = torch.where(mask > 0, painted, video).clamp(-1, 1)
    mask[:, :kept] = 0
    index = (pipeline.transformer or pipeline.transformer_2).config.arope_index
    segments = book.chunk(start // 4, (size - 1) // 4 + 1, index)
    views = [to_tensor(picture[None])[:, 0] for picture in order.garments]
    hands = [None, None] if drawn is None else [pad_frames(t, size)[None] for t in _chunk_of(drawn, part)]
    where = None if hands[1] is None else hands[1][:, 0]
    return Conditions(video[None], mask[None], [views], [order.prompt], [segments], hands[0], where)


def _chunk_of(drawn: tuple[Tensor, Tensor], part: slice) -> tuple[Tensor, Tensor]:
    return drawn[0][:, part], drawn[1][None, part]


def _anchored(video: Tensor, known: Tensor) -> tuple[Tensor, float]:
    """Take back the colour shift between known frames and what came of them; the shift in levels of 255."""
    if not known.shape[1]:
        return video, 0.0
    shift = (video[:, : known.shape[1]] - known).mean(dim=(1, 2, 3))
    moved = video - shift.clamp(-MOST_SHIFT, MOST_SHIFT).view(3, 1, 1, 1)
    return moved.clamp(-1, 1), float(shift.abs().mean()) * 127.5


def _joined(known: Tensor, video: Tensor) -> Tensor:
    """A chunk whose first frames fade from the known ones to its own."""
    overlap = known.shape[1]
    weight = torch.linspace(0, 1, overlap + 2)[1:-1].view(1, -1, 1, 1)
    return torch.cat([known * (1 - weight) + video[:, :overlap] * weight, video[:, overlap:]], dim=1)


def _put_back(order: Order, way: Fit, video: Tensor, feather: int) -> NDArray[np.uint8]:
    """The generated part in its place, and the source's own bytes outside of the mask; some frames at a time."""
    top, left, height, width = way.box
    frames = order.clip.frames.copy()
    for start in range(0, len(frames), PUT_BACK):
        span = slice(start, min(start + PUT_BACK, len(frames)))
        box = np.s_[span, top : top + height, left : left + width]
        generated = (way.back(video[:, span].float()).permute(1, 2, 3, 0) + 1) * 127.5
        source = torch.from_numpy(frames[box].copy())
        frames[box] = blended(source, generated, order.mask[box], feather).numpy()
    return frames
