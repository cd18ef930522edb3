"""The clips that a service offers, and those that a request brings: read into what is dressed."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noria.core.chat.wire import data_url
from noria.core.errors import DataError
from noria.tryon.actions.fitting import misfits
from noria.tryon.pipeline.inputs import ClipOptions, prepared_mask
from noria.tryon.training.manifest import ClipRecord, read_manifest

if TYPE_CHECKING:
    from noria.tryon.pipeline.long import Order

MOST_GARMENTS = 4
LONGEST_PROMPT = 4000
_ENDINGS = {
    "image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp", "video/mp4": ".mp4", "video/webm": ".webm",
    "video/quicktime": ".mov", "application/octet-stream": ".npz",
}  # fmt: skip


@dataclass(frozen=True)
class Wish:
    """What a request asks for, checked.

    Attributes:
        garments: pictures of the garment.
        clip: name of a clip of the service; empty where the request brings one.
        video, mask: files of a clip that the request brings, each with its ending.
        prompt: caption of the whole clip; that of the clip where it is empty.
        garment_is: description of the garment; empty says nothing.
        seed: seed of the noise.
    """

    garments: tuple[tuple[bytes, str], ...]
    clip: str = ""
    video: tuple[bytes, str] | None = None
    mask: tuple[bytes, str] | None = None
    prompt: str = ""
    garment_is: str = ""
    seed: int = 0


class Clips:
    """The clips of a manifest, by name.

    Args:
        manifest: file of the clips, as `noria tryon prepare` reads it; None offers none.
        uploads: whether a request may bring a clip of its own.

    Raises:
        DataError: the manifest cannot be read, or a file of it is not there.
    """

    def __init__(self, manifest: Path | None, *, uploads: bool = False) -> None:
        self.uploads = uploads
        records = [] if manifest is None else read_manifest(manifest)
        for one in records:
            if one.span is not None:
                raise DataError(
                    "a part of a clip", where=one.where, mend="cut the clip, and list it as a whole"
                )
            for path in (one.video, one.mask, one.hands, one.pose):
                if path is not None and not path.is_file():
                    raise DataError("there is no such file", where=f"{one.where}: {path}")
        self.records = {one.id: one for one in records}

    def read_wish(self, fields: Mapping[str, Any]) -> Wish:
        """Read the fields of a request.

        Raises:
            DataError: one is unknown, malformed, or not honoured here.
        """
        known = {"garment", "clip", "video", "mask", "prompt", "garment_is", "seed"}
        if unknown := sorted(fields.keys() - known):
            raise DataError(
                f"no field {unknown[0]!r}", where="body", mend=f"fields: {', '.join(sorted(known))}"
            )
        given = fields.get("garment")
        pictures = given if isinstance(given, list) else [] if given is None else [given]
        if not 1 <= len(pictures) <= MOST_GARMENTS:
            raise DataError(
                "no picture of a garment, or too many", where="garment", mend=f"give 1 to {MOST_GARMENTS}"
            )
        texts = {name: fields.get(name) or "" for name in ("clip", "prompt", "garment_is")}
        for name, text in texts.items():
            if not isinstance(text, str) or len(text) > LONGEST_PROMPT:
                raise DataError("not a text, or too long", where=name)
        seed = fields.get("seed", 0)
        if type(seed) is not int or not 0 <= seed < 2**31:
            raise DataError("not a whole number from 0", where="seed")
        own = {name: _file(fields[name], name) for name in ("video", "mask") if fields.get(name) is not None}
        if own and not self.uploads:
            raise DataError(
                "clips of callers are not taken here", where="video", mend="name a clip of the service"
            )
        if len(own) == 1 or (own and texts["clip"]):
            raise DataError(
                "half a clip, or two", where="video, mask, clip", mend="give a clip, or video and mask"
            )
        if not own:
            texts["clip"] = texts["clip"] or next(iter(self.records), "")
            if texts["clip"] not in self.records:
                names = ", ".join(self.records)
                raise DataError(f"no clip {texts['clip'][:64]!r}", where="clip", mend=f"clips: {names}")
        garments = tuple(_file(one, "garment") for one in pictures)
        return Wish(garments, **texts, video=own.get("video"), mask=own.get("mask"), seed=seed)

    def order(self, wish: Wish) -> Order:
        """Read the files of a wish.

        Raises:
            NoriaError: one cannot be used, does not belong to the clip, or an action does not fit the garment.
        """
        with tempfile.TemporaryDirectory() as folder:
            garments = [_written(Path(folder), f"garment-{n}", one) for n, one in enumerate(wish.garments)]
            if wish.video is not None and wish.mask is not None:
                video = _written(Path(folder), "video", wish.video)
                mask = _written(Path(folder), "mask", wish.mask)
                record = ClipRecord("", video, (), mask, None, None, "", (), None, "request")
            else:
                record = self.records[wish.clip]
            if lines := misfits(record.actions, wish.garment_is):
                raise DataError("; ".join(lines), where="garment_is", mend="choose another clip or garment")
            return _order(record, garments, wish.prompt or record.caption)


def _order(record: ClipRecord, garments: Sequence[Path], prompt: str) -> Order:
    from noria.tryon.hands.rendering import render
    from noria.tryon.hands.repair import repair
    from noria.tryon.hands.track import read_hands
    from noria.tryon.pipeline.long import Order
    from noria.tryon.video.reading import read_garment, read_mask, read_pose, read_source

    pictures = [read_garment(path) for path in garments]
    clip = read_source(record.video)
    options, actions = ClipOptions(video=record.video), list(record.actions)
    hands = drawn = None
    if record.hands is not None:
        track = read_hands(record.hands, len(clip.frames), clip.size)
        hands = repair(track, clip.seconds, longest_gap=options.longest_gap).track
        drawn = render(hands, clip.size)[1]
    mask = prepared_mask(read_mask(record.mask, clip), options, clip, drawn, actions)
    pose = None if record.pose is None else read_pose(record.pose, clip)
    return Order(clip, mask, pictures, prompt, tuple(actions), hands, pose)


def _file(url: Any, name: str) -> tuple[bytes, str]:
    """Content and ending of a file that comes as a `data:` URL."""
    kind, content = data_url(url)
    if kind not in _ENDINGS:
        raise DataError(f"a file of the type {kind[:60]!r}", where=name, mend=f"types: {', '.join(_ENDINGS)}")
    return content, _ENDINGS[kind]


def _written(folder: Path, name: str, file: tuple[bytes, str]) -> Path:
    path = folder / f"{name}{file[1]}"
    path.write_bytes(file[0])
    return path
