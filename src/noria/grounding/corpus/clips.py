"""Video files in and out, through PyAV: frames by their presentation time, sound as WAV, with bounds on everything."""

from __future__ import annotations

import hashlib
import io
import time
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.core.errors import DataError, require
from noria.core.files import inside, read_bytes, write_atomic
from noria.core.video import LIMITS, SPARE, Limits, decoded, extent, opened, upright, video_stream

SOUND_RATE = 16_000
"""Samples a second of the sound that is sent."""


@dataclass(frozen=True)
class FrameSample:
    """Frames of a clip.

    Attributes:
        seconds: [k] presentation time of each, from the clip's start.
        pixels: [k, height, width, 3].
        duration: length of the clip in seconds.
        digest: SHA-256 over times and pixels, by which two decoders can be told apart.
    """

    seconds: tuple[float, ...]
    pixels: NDArray[np.uint8]
    duration: float
    digest: str


def clip_path(folder: Path, video_path: str, video_id: str) -> Path:
    """The file of a video in a folder: its path, its id, or its id with a suffix.

    Raises:
        DataError: there is none, or its name leaves the folder.
    """
    for name in dict.fromkeys(
        (video_path, video_id, f"{video_id}.mp4", f"{video_id}.mkv", f"{video_id}.webm")
    ):
        if not name:
            continue
        path = inside(folder, name)
        if path.is_file():
            return path
    raise DataError(
        f"no clip of {video_id!r}", where=str(folder), mend="give the folder that holds the videos"
    )


def sample_frames(
    path: Path,
    count: int,
    *,
    side: int | None = None,
    at: Sequence[float] | None = None,
    limits: Limits = LIMITS,
) -> FrameSample:
    """Frames at the middles of `count` equal bins of the clip's presentation time, or at given times.

    The frame at a time is the one that is on screen then: the last whose presentation time is not later. So variable
    rates are right, and the same file gives the same frames everywhere that FFmpeg decodes alike. Rotation that the
    file asks for is done.

    Args:
        path: the file.
        count: number of frames; a clip with fewer repeats some.
        side: the longer side is at most this many pixels; as in the file by default.
        at: times in seconds, in the place of bins.
        limits: bounds on what a file may cost.

    Raises:
        DataError: the file cannot be read, holds no frame, or passes a limit.
        MissingExtra: there is no PyAV.
    """
    start, duration, _ = extent(path, limits)
    wanted = (
        [start + (k + 0.5) * duration / count for k in range(count)]
        if at is None
        else [start + t for t in at]
    )
    shown = _on_screen(path, wanted, side, limits)
    pixels = np.stack([shown[n][1] for n in range(len(wanted))])
    seconds = tuple(round(shown[n][0] - start, 3) for n in range(len(wanted)))
    digest = hashlib.sha256(repr((seconds, pixels.shape)).encode() + pixels.tobytes()).hexdigest()
    return FrameSample(seconds, pixels, duration, digest)


def clip_length(path: Path) -> float:
    """Length of a clip in seconds, from its packets.

    Raises:
        DataError: the file cannot be read, holds no frame, or passes a limit.
        MissingExtra: there is no PyAV.
    """
    return extent(path, LIMITS).duration


def whole_file(path: Path, *, limits: Limits = LIMITS) -> bytes:
    """The bytes of a clip that is to be sent as it is, once its packets have been looked at.

    Raises:
        DataError: the file cannot be read, passes a limit, or is larger than a request should be.
        MissingExtra: there is no PyAV.
    """
    extent(path, limits)
    size = path.stat().st_size
    if size > limits.sent_bytes:
        raise DataError(
            f"{size:,} bytes, more than the {limits.sent_bytes:,} that are sent whole",
            where=str(path),
            mend="send frames",
        )
    return read_bytes(path)


def _on_screen(
    path: Path, wanted: Sequence[float], side: int | None, limits: Limits
) -> dict[int, tuple[float, NDArray[np.uint8]]]:
    """{number of the wanted time: time and pixels of the frame that is on screen then}.

    That is the last frame that starts no later; the first one before any has started.
    """
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    shown: dict[int, tuple[float, NDArray[np.uint8]]] = {}
    before: tuple[float, Any] | None = None

    def take(until: float) -> None:
        """Give the frame before to every wanted time earlier than `until`."""
        assert before is not None
        pixels = None
        while order and wanted[order[0]] < until:
            pixels = _pixels(before[1], side) if pixels is None else pixels
            shown[order.pop(0)] = before[0], pixels

    began = time.monotonic()
    damage: list[str] = []
    with opened(path) as container:
        base = float(video_stream(container, path).time_base)
        for frame in decoded(container, path, damage):
            if time.monotonic() - began > limits.decode_seconds:
                raise DataError(f"decoding took over {limits.decode_seconds:g} s", where=str(path))
            if frame.pts is None:
                continue
            now = frame.pts * base
            if before is not None:
                take(now - 1e-9)
            before = now, frame
            if not order:
                break
        if before is None:
            raise DataError("no frame can be decoded", where=str(path))
        if damage and order and wanted[order[-1]] > before[0] + SPARE:
            raise DataError(
                f"damaged at {before[0]:.2f} s ({damage[0]})", where=str(path), mend="copy the clip anew"
            )
        take(float("inf"))
    return shown


def _pixels(frame: Any, side: int | None) -> NDArray[np.uint8]:
    width, height = frame.width, frame.height
    if side is not None and max(width, height) > side:
        share = side / max(width, height)
        width, height = max(2, round(width * share)), max(2, round(height * share))
    return upright(frame, width, height)


def sound_of(path: Path) -> bytes | None:
    """A clip's sound as a mono 16-bit WAV file; None where it has none.

    Raises:
        DataError: the file cannot be read.
        MissingExtra: there is no PyAV.
    """
    av = require("av", "video")
    pieces: list[NDArray[np.int16]] = []
    with opened(path) as container:
        if not container.streams.audio:
            return None
        resampler = av.AudioResampler(format="s16", layout="mono", rate=SOUND_RATE)
        total = 0
        for frame in container.decode(audio=0):
            for piece in resampler.resample(frame):
                pieces.append(piece.to_ndarray().reshape(-1))
                total += len(pieces[-1])
            if total > LIMITS.video_seconds * SOUND_RATE:
                raise DataError(f"sound of more than {LIMITS.video_seconds:g} s", where=str(path))
        pieces += [piece.to_ndarray().reshape(-1) for piece in resampler.resample(None)]
    if not pieces:
        return None
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(SOUND_RATE)
        out.writeframes(np.concatenate(pieces).astype("<i2").tobytes())
    return file.getvalue()


def write_clip(
    path: Path,
    frames: NDArray[np.uint8],
    *,
    fps: int,
    sound: NDArray[np.float32] | None = None,
    rate: int = 16_000,
    times: Sequence[float] | None = None,
) -> None:
    """Write an mp4 of H.264 and, if there is sound, AAC.

    Args:
        path: the file.
        frames: [n, height, width, 3], sides even.
        fps: frames a second.
        sound: [samples] in −1 … 1.
        rate: samples a second.
        times: [n] rising presentation times in seconds, for a variable rate; by `fps` otherwise.

    Raises:
        RunError: the disk refuses.
        MissingExtra: there is no PyAV.
    """
    av = require("av", "video")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        video = container.add_stream(
            "libx264", rate=fps, options={"preset": "ultrafast", "crf": "20", "threads": "1"}
        )
        video.width, video.height, video.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        video.time_base = video.codec_context.time_base = Fraction(1, 1000)
        audio = container.add_stream("aac", rate=rate, layout="mono") if sound is not None else None
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.time_base = Fraction(1, 1000)
            frame.pts = round(1000 * (number / fps if times is None else times[number]))
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if audio is not None and sound is not None:
            whole = (np.clip(sound, -1, 1) * 32767).astype(np.int16)
            for start in range(0, len(whole), 1024):
                piece = av.AudioFrame.from_ndarray(
                    whole[None, start : start + 1024], format="s16", layout="mono"
                )
                piece.sample_rate, piece.pts, piece.time_base = rate, start, Fraction(1, rate)
                container.mux(audio.encode(piece))
            container.mux(audio.encode())
    write_atomic(path, file.getvalue(), sync=False)


def crop(pixels: NDArray[np.uint8], box: tuple[float, float, float, float]) -> NDArray[np.uint8]:
    """The part of frames [k, height, width, 3] inside of x, y, w, h, at least two pixels each way."""
    height, width = pixels.shape[1:3]
    x, y, w, h = box
    left, top = min(width - 2, max(0, int(x * width))), min(height - 2, max(0, int(y * height)))
    right, bottom = max(left + 2, round((x + w) * width)), max(top + 2, round((y + h) * height))
    return np.ascontiguousarray(pixels[:, top:bottom, left:right])


def jpeg(pixels: NDArray[np.uint8], *, quality: int = 90) -> bytes:
    """One frame [height, width, 3] as a JPEG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()
