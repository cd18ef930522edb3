"""Video files as containers, through PyAV: opened by content, bounded before they are decoded, read in time order."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from noria.core.errors import DataError, require


@dataclass(frozen=True)
class Limits:
    """What a file may cost: bytes, those of one sent whole, pixels a frame, seconds, frames, seconds of decoding."""

    file_bytes: int = 512 * 2**20
    sent_bytes: int = 64 * 2**20
    pixels: int = 4096 * 4096
    video_seconds: float = 600.0
    frames: int = 100_000
    decode_seconds: float = 60.0


LIMITS = Limits()
SPARE = 0.25
"""Seconds, and `SPARE_SHARE` of the length, by which a file may end earlier than its head says."""
SPARE_SHARE = 0.02


class Extent(NamedTuple):
    """When a video starts and how long it is, in seconds, and the number of its frames as packets count them."""

    start: float
    duration: float
    frames: int


def extent(path: Path, limits: Limits) -> Extent:
    """Extent of a video by its packets, without decoding.

    A file that was cut, by a copy that broke off, still has a head that says how long it should be.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path)) from None
    if size > limits.file_bytes:
        raise DataError(f"{size:,} bytes, more than {limits.file_bytes:,}", where=str(path))
    starts: list[float] = []
    lengths: list[float] = []
    packets, reached = 0, 0.0
    with opened(path) as container:
        stream = video_stream(container, path)
        if stream.width * stream.height > limits.pixels or not stream.width:
            raise DataError(f"frames of {stream.width}×{stream.height}", where=str(path))
        for packet in container.demux():
            if packet.pts is None or not packet.size:
                continue
            ticks, of = packet.time_base.as_integer_ratio()
            start, length = packet.pts * ticks / of, (packet.duration or 0) * ticks / of
            reached = max(reached, start + length)
            if packet.stream.index != stream.index:
                continue
            packets += 1
            if packet.is_discard:  # what an edit list cuts off is in the file, and is never shown
                continue
            starts.append(start)
            lengths.append(length)
            if len(starts) > limits.frames:
                raise DataError(f"more than {limits.frames:,} frames", where=str(path))
        _check_whole(container, stream, packets, reached, path)
    if not starts:
        raise DataError("it holds no frame", where=str(path))
    first, last = min(starts), max(starts)
    length = lengths[starts.index(last)]
    if length <= 0:
        length = (last - first) / max(1, len(starts) - 1) or 0.04
    duration = last - first + length
    if duration > limits.video_seconds:
        raise DataError(f"{duration:.0f} s long, more than {limits.video_seconds:g}", where=str(path))
    return Extent(first, duration, len(starts))


def _check_whole(container: Any, stream: Any, packets: int, reached: float, path: Path) -> None:
    """Refuse a file that ends before its head says; streams without a head (MPEG-TS) can be cut anywhere.

    Args:
        container, stream: the opened file and its video.
        packets: number of the video's packets in it.
        reached: latest end of any packet, in seconds.
        path: the file, for the error.
    """
    promised = (container.duration or 0) / 1e6
    if (
        "avi" in container.format.name and stream.frames
    ):  # its length is guessed from its size, its frames are counted
        promised, reached = float(stream.frames / stream.average_rate), float(packets / stream.average_rate)
    if promised - reached > max(SPARE, SPARE_SHARE * promised):
        raise DataError(
            f"cut off: {reached:.2f} s of {promised:.2f} s are there",
            where=str(path),
            mend="copy the clip anew",
        )


CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf"
"""FFmpeg's names of formats that hold their own frames. It goes by contents, and a playlist names other files."""


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A container, with FFmpeg's complaints as one line."""
    av = require("av", "video")
    try:
        # `file:` keeps a name such as `-x.mp4` or `http:…` from being read as anything but a file's.
        container = av.open(
            f"file:{path}", metadata_errors="ignore", options={"format_whitelist": CONTAINERS}
        )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise DataError(f"not a video ({_words(error)})", where=str(path)) from None
    try:
        with container:
            yield container
    except av.error.FFmpegError as error:
        raise DataError(f"damaged ({_words(error)})", where=str(path)) from None


def _words(error: BaseException) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())[:120]


def video_stream(container: Any, path: Path) -> Any:
    """First video stream of a container.

    Raises:
        DataError: there is none.
    """
    if not container.streams.video:
        raise DataError("no video stream in it", where=str(path))
    return container.streams.video[0]


def decoded(container: Any, path: Path, damage: list[str]) -> Iterator[Any]:
    """Frames in presentation order; damage ends them, and is noted."""
    av = require("av", "video")
    packets = container.demux(video_stream(container, path))
    any_yet = False
    while True:
        try:
            packet = next(packets, None)
            frames = [] if packet is None else packet.decode()
        except av.error.FFmpegError as error:
            if not any_yet:
                raise
            damage.append(_words(error))
            return
        if packet is None:
            return
        any_yet = any_yet or bool(frames)
        yield from frames


def upright(frame: Any, width: int, height: int, converter: Any = None) -> NDArray[np.uint8]:
    """RGB pixels `[height, width, 3]` of a decoded frame, scaled to a size, then turned as the file asks.

    Args:
        frame: the frame.
        width, height: size before it is turned.
        converter: a `VideoReformatter` of PyAV that frames of one clip share, which costs less than one for each.
    """
    # One thread: by default PyAV starts one for each core, which takes longer than a frame of up to 720p itself.
    size = {"width": width, "height": height, "format": "rgb24", "threads": 1}
    scaled = frame.reformat(**size) if converter is None else converter.reformat(frame, **size)
    array: NDArray[np.uint8] = scaled.to_ndarray()
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(array, turns) if turns else array)
