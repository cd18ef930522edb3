"""Clips as parts of a request: frames, a file, sound, words, or what a control puts in their place."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from noria.core.chat import Audio, Clip, Frame, Image, Part, Text, Video
from noria.core.errors import DataError
from noria.grounding.asking.config import MediaSettings
from noria.grounding.asking.prompts import evidence_text
from noria.grounding.asking.types import WITHOUT_CLIP, Control
from noria.grounding.corpus.clips import (
    FrameSample,
    clip_length,
    clip_path,
    crop,
    jpeg,
    sample_frames,
    sound_of,
    whole_file,
)
from noria.grounding.corpus.questions import boxes_in, times_in
from noria.grounding.corpus.records import Record

__all__ = ["Cinema", "MediaParts"]


@dataclass(frozen=True)
class MediaParts:
    """The parts of a request that are not words of ours.

    Attributes:
        parts: parts of the message, in their order.
        transcript: words that are spoken; None leaves them out.
        digest: SHA-256 of the frames.
        notes: what was amiss, such as a clip without sound.
    """

    parts: tuple[Part, ...]
    transcript: str | None
    digest: str = ""
    notes: tuple[str, ...] = ()


class Cinema:
    """Opens clips, and keeps the last few that it opened. Safe to use from several threads.

    Args:
        records: {video: record}.
        videos: folder of the clips; None where no control needs it.
        settings: how clips are sent.
        strangers: {video: whose frames are shown in its place}, for `shuffled`.
        keep: number of opened clips that are kept.
    """

    def __init__(
        self,
        records: Mapping[str, Record],
        videos: Path | None,
        settings: MediaSettings,
        *,
        strangers: Mapping[str, str] | None = None,
        keep: int = 32,
    ) -> None:
        self.records, self.videos, self.settings = records, videos, settings
        self.strangers = strangers or {}
        self.keep = keep
        self._kept: OrderedDict[tuple[str, str], MediaParts] = OrderedDict()
        self._lock = threading.Lock()

    def show(self, video: str, control: Control, question: str = "") -> MediaParts:
        """What a request about `video` holds under a control; `question` is the stem, for `cropped-box`.

        Raises:
            DataError: the clip is not there, or cannot be used.
        """
        key = self.key(video, control, question)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        shown = self._make(video, control, question)
        with self._lock:
            self._kept[key] = shown
            while len(self._kept) > self.keep:
                self._kept.popitem(last=False)
        return shown

    def has(self, video: str, control: Control, question: str = "") -> bool:
        """Whether showing it needs no decoding."""
        if control in WITHOUT_CLIP:
            return True
        with self._lock:
            return self.key(video, control, question) in self._kept

    @staticmethod
    def key(video: str, control: Control, question: str = "") -> tuple[str, str]:
        """Key of what is shown: all questions share it, but for `cropped-box`."""
        return video, f"{control} {question}" if control == "cropped-box" else control

    def duration(self, video: str) -> float:
        """Length of a clip in seconds.

        Raises:
            DataError: the clip is not there, or cannot be used.
        """
        return clip_length(self._path(self.records[video]))

    def _make(self, video: str, control: Control, question: str) -> MediaParts:
        record = self.records[video]
        if control == "blind":
            return MediaParts((), None)
        if control == "transcript":
            return MediaParts((), record.transcription)
        if control == "oracle":
            return MediaParts((Text(evidence_text(record.observations)),), record.transcription)
        path = self._path(self.records[self.strangers[video]] if control == "shuffled" else record)
        if control == "cropped-box":
            return self._cropped(path, record, question)
        parts: list[Part] = []
        notes: list[str] = []
        digest = ""
        if self.settings.send == "video" and control in ("none", "shuffled"):
            data = whole_file(path)
            digest = hashlib.sha256(data).hexdigest()
            parts.append(Clip(data, media_type="video/webm" if path.suffix == ".webm" else "video/mp4"))
        else:
            sampled = sample_frames(path, self.settings.frames, side=self.settings.side)
            parts.append(self._video(sampled, control))
            digest = sampled.digest
        if self.settings.audio and control in ("none", "shuffled"):
            sound = sound_of(path)
            if sound is None:
                notes.append("the clip has no sound")
            else:
                parts.append(Audio(sound))
        return MediaParts(tuple(parts), record.transcription, digest, tuple(notes))

    def _path(self, record: Record) -> Path:
        if self.videos is None:
            raise DataError(
                f"no folder of videos for {record.video_id!r}",
                mend="give --videos, or a control without frames",
            )
        return clip_path(self.videos, record.video_path, record.video_id)

    def _video(self, sampled: FrameSample, control: Control) -> Video:
        pixels = sampled.pixels
        if control == "black":
            pixels = np.zeros_like(pixels)
        if control == "reversed":
            pixels = pixels[::-1]
        images = {}
        frames = []
        for seconds, frame in zip(sampled.seconds, pixels, strict=True):
            raw = b"" if control == "black" else frame.tobytes()
            if raw not in images:
                images[raw] = Image(jpeg(frame, quality=self.settings.quality))
            frames.append(Frame(images[raw], seconds))
        return Video(tuple(frames))

    def _cropped(self, path: Path, record: Record, question: str) -> MediaParts:
        boxes, times = boxes_in(question), times_in(question)
        if not boxes or not times:
            raise DataError("the question has no box and time", where=record.video_id)
        sampled = sample_frames(path, 1, side=self.settings.side, at=times[:1])
        part = crop(sampled.pixels, boxes[0])
        image = Image(jpeg(part[0], quality=self.settings.quality))
        return MediaParts((Video((Frame(image, sampled.seconds[0]),)),), record.transcription, sampled.digest)
