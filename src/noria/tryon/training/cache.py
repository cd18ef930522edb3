"""Encoded clips and captions on disk, by the content of all that they are made of. What is damaged counts as absent."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from noria.core.errors import DataError
from noria.core.files import read_bytes, write_atomic
from noria.core.records import json_object
from noria.core.runs.checkpoints import fingerprint
from noria.tryon.pipeline.book import make_book
from noria.tryon.pipeline.captions import encode_texts
from noria.tryon.pipeline.chunks import digest_of
from noria.tryon.pipeline.conditions import Conditions, control_latents, encode, hand_latents
from noria.tryon.pipeline.inputs import prepared_mask
from noria.tryon.pipeline.long import Order, drawn_hands, padded_times, to_tensor
from noria.tryon.training.config import ClipFormat
from noria.tryon.training.manifest import ClipRecord
from noria.tryon.video.clips import Clip
from noria.tryon.video.framing import fit, pad_frames
from noria.tryon.video.reading import read_garment, read_mask, read_pose, read_source

VERSION = "2"
WHOLE = 512


@dataclass(frozen=True)
class EncodedClip:
    """A clip whose latents lie in the cache.

    Attributes:
        record: record of the clip.
        key: name of its latents, by the content of all that they are made of.
        digest: digest of the latents themselves.
        shape: shape of its latents `[channels, references + frames, height, width]`.
        table: action of each latent frame, counted from 1 `[frames]`.
        captions: captions of these actions: of those that the part of the clip has.
        references: number of garment pictures.
    """

    record: ClipRecord
    key: str
    digest: str
    shape: tuple[int, ...]
    table: Tensor
    captions: tuple[str, ...]
    references: int


@dataclass(frozen=True)
class ClipLatents:
    """Latents of a clip as the trainer takes them.

    Attributes:
        clean: latents with the garments' before them `[channels, references + frames, height, width]`.
        control: VACE's control of the same frames `[96, ...]`.
        hands: hand latents `[17, frames, height, width]`, or None.
    """

    clean: Tensor
    control: Tensor
    hands: Tensor | None


class ClipCache:
    """Clips encoded by a pipeline's autoencoder, captions by its text encoder; each is made once.

    Args:
        folder: folder of the cache.
        pipeline: the models.
        form: settings that clips are read with.
        memory: most bytes of latents that are held; those that were used last stay.
    """

    def __init__(self, folder: Path, pipeline: Any, form: ClipFormat, *, memory: int = 2 << 30) -> None:
        self.folder, self.pipeline, self.form, self.memory = folder, pipeline, form, memory
        self._vae, self._text = fingerprint(pipeline.vae), fingerprint(pipeline.text_encoder)
        self._held: OrderedDict[str, ClipLatents] = OrderedDict()
        self.made = 0

    def clip(self, record: ClipRecord) -> EncodedClip:
        """What is known of the clip of a record; it is read and encoded where the cache lacks it.

        Raises:
            DataError: one of its files cannot be used, or they do not belong together.
        """
        with _named(record):
            files = [record.video, *record.garments, record.mask, record.pose, record.hands]
            contents = [b"" if file is None else hashlib.sha256(read_bytes(file)).digest() for file in files]
            form = self.form.model_dump(mode="json", include=set(ClipFormat.model_fields))
            actions = [vars(action) for action in record.actions]
            key = digest_of(*contents, [VERSION, self._vae, form, actions, record.span])
            about = self._about(key)
            if about is None:
                self._make(record, key)
                about = self._about(key)
                assert about is not None
            table = torch.tensor(about["table"], dtype=torch.long)
            captions, references = tuple(about["captions"]), int(about["references"])
            return EncodedClip(
                record, key, about["digest"], tuple(about["shape"]), table, captions, references
            )

    def latents(self, clip: EncodedClip) -> ClipLatents:
        """The latents of a clip; they are made anew where the cache's are damaged or gone.

        Raises:
            DataError: the clip has to be encoded again, and one of its files cannot be used any more.
        """
        if clip.key not in self._held:
            stored = self._load("clips", clip.key)
            if stored is None:
                with _named(clip.record):
                    stored = self._make(clip.record, clip.key)
            self._held[clip.key] = ClipLatents(stored["clean"], stored["control"], stored.get("hands"))
            while len(self._held) > 1 and sum(map(_bytes, self._held.values())) > self.memory:
                self._held.popitem(last=False)
        self._held.move_to_end(clip.key)
        return self._held[clip.key]

    def _about(self, key: str) -> dict[str, Any] | None:
        """Shape, table, captions and number of garments of stored latents; None where they are not there or damaged."""
        path = self._path("clips", key)
        try:
            about = json_object(path.with_suffix(".json"), "latents")
            return about if path.is_file() and about["key"] == key and about["digest"] else None
        except (DataError, KeyError):
            return None

    def _make(self, record: ClipRecord, key: str) -> dict[str, Tensor]:
        tensors, about = self._encode(record)
        text = json.dumps(about | {"key": key, "digest": self._save("clips", key, tensors)})
        write_atomic(self._path("clips", key).with_suffix(".json"), text, sync=False)
        return tensors

    def text(self, caption: str, longest: int = WHOLE) -> Tensor:
        """Encoded tokens of a caption `[tokens, width]`, without padding."""
        key = digest_of([VERSION, self._text, caption, longest])
        stored = self._load("captions", key)
        if stored is None:
            with torch.no_grad():
                parts = (self.pipeline.tokenizer, self.pipeline.text_encoder)
                stored = {"states": encode_texts(*parts, [caption], longest)[0].cpu()}
            self._save("captions", key, stored)
        return stored["states"]

    @torch.no_grad()
    def _encode(self, record: ClipRecord) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Latents of a clip, and their shape, table, captions and number of garments."""
        order = _order(record, self.form)
        frames = self.form.frames
        way = fit((0, 0, *order.clip.size), self.form.most_pixels)
        video = pad_frames(way.forward(to_tensor(order.clip.frames)), frames)[None].clamp(-1, 1)
        mask = pad_frames((way.forward(order.mask.float()[None]) > 0.5).float(), frames)[None]
        painted = torch.zeros_like(video)
        if order.pose is not None:
            painted = pad_frames(way.forward(to_tensor(order.pose)), frames)[None].clamp(-1, 1)
        views = [to_tensor(picture[None])[:, 0] for picture in order.garments]
        vae = self.pipeline.vae
        control = control_latents(vae, Conditions(torch.where(mask > 0, painted, video), mask, [views], [""]))
        channels = vae.config.z_dim
        lead = control[:, :channels, : len(views)]
        encoded = {
            "clean": torch.cat([lead, encode(vae, video)], dim=2)[0].cpu(),
            "control": control[0].cpu(),
        }
        book = make_book(order.actions, padded_times(order.clip, frames), order.clip.duration)
        if order.hands is not None:
            drawn, where = drawn_hands(order, way)
            padded = pad_frames(drawn, frames)[None], pad_frames(where[None], frames)
            encoded["hands"] = hand_latents(vae, *padded)[0].cpu()
        about = {
            "shape": list(encoded["clean"].shape),
            "table": book.table.tolist(),
            "captions": [action.caption for action in book.actions],
            "references": len(views),
        }
        return encoded, about

    def _path(self, kind: str, key: str) -> Path:
        return self.folder / kind / f"{key[:40]}.safetensors"

    def _load(self, kind: str, key: str) -> dict[str, Tensor] | None:
        from safetensors.torch import load

        try:
            raw = read_bytes(self._path(kind, key))
            digest, _, content = raw.partition(b"\n")
            if hashlib.sha256(content).hexdigest().encode() != digest:
                return None
            return dict(load(content))
        except Exception:  # a cache: whatever is wrong with an entry, it is made anew
            return None

    def _save(self, kind: str, key: str, tensors: dict[str, Tensor]) -> str:
        from safetensors.torch import save

        content = save({name: value.contiguous() for name, value in tensors.items()})
        digest = hashlib.sha256(content).hexdigest().encode()
        write_atomic(self._path(kind, key), digest + b"\n" + content, sync=False)
        self.made += 1
        return digest.decode()


def _bytes(latents: ClipLatents) -> int:
    parts = (latents.clean, latents.control, latents.hands)
    return sum(part.numel() * part.element_size() for part in parts if part is not None)


@contextmanager
def _named(record: ClipRecord) -> Iterator[None]:
    """Name the record in what is said against its files."""
    try:
        yield
    except DataError as error:
        raise DataError(str(error), where=record.where) from None


def _order(record: ClipRecord, form: ClipFormat) -> Order:
    """The files of a record, read at the rate of the training and cut to its number of frames.

    The mask is prepared as it is for a clip that is dressed: the model learns from masks as it will meet them.
    """
    from noria.tryon.hands.rendering import render
    from noria.tryon.hands.repair import repair
    from noria.tryon.hands.track import HandTrack, read_hands

    clip = read_source(record.video)
    given = read_mask(record.mask, clip)
    hands = None
    if record.hands is not None:
        hands = repair(read_hands(record.hands, len(clip.frames), clip.size), clip.seconds).track
    pose = None if record.pose is None else read_pose(record.pose, clip)
    rows = _rows(clip, record, form)
    start = float(clip.seconds[rows[0]])
    step = 1 / (form.fps or clip.fps)
    even = np.arange(len(rows), dtype=np.float64) * step
    seconds = even if form.fps else clip.seconds[rows] - start
    part = Clip(clip.frames[rows], seconds, float(seconds[-1]) + step, clip.path)
    shifted = [
        type(action)(max(0.0, action.start - start), action.end - start, action.caption)
        for action in record.actions
        if action.end > start and action.start - start < part.duration - 1e-6
    ]
    drawn = None
    if hands is not None:
        hands = HandTrack(hands.joints[rows], hands.valid[rows], hands.camera)
        drawn = render(hands, part.size)[1]
    mask = prepared_mask(given[torch.from_numpy(rows)], form, part, drawn, shifted)
    garments = [read_garment(path) for path in record.garments]
    pose = None if pose is None else pose[rows]
    return Order(part, mask, garments, record.caption, tuple(shifted), hands, pose)


def _rows(clip: Clip, record: ClipRecord, form: ClipFormat) -> NDArray[np.int64]:
    """Numbers of the frames that a training clip has: at its rate, the one that is on screen at each time."""
    first, last = record.span or (0, len(clip.frames))
    if first >= len(clip.frames):
        raise DataError(f"it begins at frame {first}, and the clip has {len(clip.frames)}", where=record.id)
    times = clip.seconds[first : min(last, len(clip.frames))]
    if form.fps is None:
        return np.arange(first, first + min(len(times), form.frames))
    wanted = times[0] + np.arange(form.frames) / form.fps
    wanted = wanted[wanted <= times[-1] + 0.5 / form.fps]
    rows: NDArray[np.int64] = first + np.clip(
        np.searchsorted(times, wanted + 1e-6, side="right") - 1, 0, len(times) - 1
    )
    return rows
