"""A clip as arrays, read by presentation time and written with its own times, size and sound."""

from __future__ import annotations

import contextlib
import io
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.core.errors import DataError, require
from noria.core.files import check_input
from noria.core.video import LIMITS, Limits, decoded, extent, opened, upright, video_stream

MOST_BYTES = 2**32
"""Most bytes of all frames of a clip, decoded."""
TICKS = 90_000
"""Ticks of a second in the files that are written."""
COPIED = ("aac", "mp3", "ac3", "eac3", "alac", "opus", "flac")
"""Codecs of sound that an mp4 file takes as they are."""


@dataclass(frozen=True)
class Clip:
    """Frames of a video and when each is on screen.

    Attributes:
        frames: pixels `[frames, height, width, 3]`, upright.
        seconds: presentation time of each frame from the clip's start `[frames]`, rising.
        duration: length in seconds.
        path: file that it is from.
    """

    frames: NDArray[np.uint8]
    seconds: NDArray[np.float64]
    duration: float
    path: Path

    @property
    def fps(self) -> float:
        """Frames a second on average."""
        return len(self.frames) / self.duration

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.frames.shape[1], self.frames.shape[2]


def still(pixels: NDArray[np.uint8], name: str) -> Clip:
    """A picture `[height, width, 3]` as a clip of one frame.

    Args:
        pixels: the picture.
        name: what it is called.
    """
    return Clip(pixels[None], np.zeros(1), 1.0, Path(name))


def read_clip(path: Path, *, limits: Limits = LIMITS) -> Clip:
    """Decode all frames of a video file; what an edit list cuts off is left out, and rotation is done.

    Raises:
        DataError: the file cannot be read, is damaged, or passes a limit.
        MissingExtra: there is no PyAV.
    """
    check_input(path)
    start, duration, count = extent(path, limits)
    frames = np.empty((0, 0, 0, 3), np.uint8)
    times: list[float] = []
    damage: list[str] = []
    began = time.monotonic()
    converter = require("av.video.reformatter", "video").VideoReformatter()
    with opened(path) as container:
        base = float(video_stream(container, path).time_base)
        for frame in decoded(container, path, damage):
            if time.monotonic() - began > limits.decode_seconds:
                raise DataError(f"decoding took over {limits.decode_seconds:g} s", where=str(path))
            if frame.pts is None or (times and frame.pts * base - start <= times[-1]):
                continue  # a frame without a time of its own is never on screen
            pixels = upright(frame, frame.width, frame.height, converter)
            _check_frame(pixels, frames, len(times), path)
            if not times:
                frames = np.empty((min(count, MOST_BYTES // pixels.nbytes), *pixels.shape), np.uint8)
            elif len(times) == len(frames):
                frames = np.concatenate([frames, pixels[None]])
            frames[len(times)] = pixels
            times.append(frame.pts * base - start)
    if damage or not times:
        what = f"damaged after frame {len(times)} ({damage[0]})" if damage else "no frame can be decoded"
        raise DataError(what, where=str(path), mend="copy the clip anew")
    return Clip(frames[: len(times)], np.array(times), duration, path)


def _check_frame(pixels: NDArray[np.uint8], frames: NDArray[np.uint8], number: int, path: Path) -> None:
    """Refuse a frame of another size than those before it, or for which there is no room."""
    if number and pixels.shape != frames.shape[1:]:
        raise DataError(f"its size changes at frame {number}", where=str(path), mend="encode it anew")
    if (number + 1) * pixels.nbytes > MOST_BYTES:
        raise DataError(
            f"more than {MOST_BYTES >> 30} GiB of frames", where=str(path), mend="cut it, or scale it down"
        )


def encode_clip(
    frames: NDArray[np.uint8],
    seconds: Sequence[float],
    *,
    crf: int = 16,
    sound: Path | None = None,
    comment: str = "",
) -> bytes:
    """Encode frames as an mp4 file of H.264 with their own times; sound is copied where mp4 takes it, else AAC.

    Args:
        frames: pixels `[frames, height, width, 3]`.
        seconds: rising times of the frames.
        crf: quality of H.264; lower is better and larger.
        sound: file whose first sound goes along, if it has any.
        comment: text in the file's metadata.

    Raises:
        MissingExtra: there is no PyAV.
    """
    av = require("av", "video")
    file = io.BytesIO()
    height, width = frames.shape[1:3]
    ticks = [round(TICKS * at) for at in seconds]
    rate = Fraction(TICKS * max(1, len(ticks) - 1), max(1, ticks[-1] - ticks[0])).limit_denominator(1001)
    with (
        av.open(file, "w", format="mp4") as container,
        contextlib.ExitStack() as stack,
    ):
        container.metadata["comment"] = comment
        options = {"crf": str(crf), "preset": "veryfast"}
        video = container.add_stream("libx264", rate=rate if len(ticks) > 1 else 25, options=options)
        video.width, video.height = width, height
        video.pix_fmt = "yuv444p" if width % 2 or height % 2 else "yuv420p"  # 4:2:0 has no odd sizes
        video.time_base = video.codec_context.time_base = Fraction(1, TICKS)
        video.codec_context.colorspace, video.codec_context.color_range = 1, 1  # BT.709, limited range
        copy = None if sound is None else stack.enter_context(_sound(container, sound))
        for pixels, tick in zip(frames, ticks, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame = frame.reformat(
                format=video.pix_fmt, dst_colorspace="ITU709", dst_color_range="MPEG", threads=1
            )
            frame.time_base, frame.pts = Fraction(1, TICKS), tick
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if copy is not None:
            copy()
    return file.getvalue()


@contextlib.contextmanager
def _sound(container: Any, path: Path) -> Any:
    """Add a stream for the first sound of a file; gives the function that fills it, None where there is no sound."""
    with opened(path) as source:
        if not source.streams.audio:
            yield None
            return
        given = source.streams.audio[0]
        start = float(video_stream(source, path).start_time or 0) * float(
            video_stream(source, path).time_base
        )
        copied = given.codec_context.name in COPIED
        if copied:
            stream = container.add_stream_from_template(given)
        else:
            stream = container.add_stream("aac", rate=given.codec_context.sample_rate)

        def fill() -> None:
            if copied:
                for packet in source.demux(given):
                    if packet.dts is None:
                        continue
                    packet.pts -= round(start / packet.time_base)
                    packet.dts -= round(start / packet.time_base)
                    packet.stream = stream
                    container.mux(packet)
                return
            for piece in _sound_from(source.decode(given), start, given.codec_context.sample_rate):
                container.mux(stream.encode(piece))
            container.mux(stream.encode())

        yield fill


def _sound_from(frames: Iterator[Any], start: float, rate: int) -> Iterator[Any]:
    """Decoded sound as AAC takes it, with times from `start` on as 0; what lies before it is cut off.

    Args:
        frames: decoded frames of sound, read one at a time.
        start: seconds in the times of the frames.
        rate: samples a second.
    """
    av = require("av", "video")
    resampler = av.AudioResampler(format="fltp", rate=rate)
    at = 0  # a frame without a time of its own follows the one before
    for frame in itertools.chain(frames, [None]):
        for piece in resampler.resample(frame):
            if piece.pts is not None:
                at = round((piece.pts * piece.time_base - start) * rate)
            first, at = at, at + piece.samples
            if at <= 0:
                continue
            if first < 0:
                samples = np.ascontiguousarray(piece.to_ndarray()[:, -first:])
                piece = av.AudioFrame.from_ndarray(samples, format="fltp", layout=piece.layout.name)
                piece.sample_rate = rate
            piece.time_base, piece.pts = Fraction(1, rate), max(0, first)
            yield piece
