"""Clips as they come: rotated, of variable rate, silent, cut, empty, with names meant to harm."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np
import pytest

from noria.core.errors import DataError
from noria.grounding.corpus.clips import (
    Limits,
    clip_length,
    clip_path,
    crop,
    jpeg,
    sample_frames,
    sound_of,
    whole_file,
    write_clip,
)
from tests.grounding.conftest import Synth


def counting(n: int, size: int = 32) -> np.ndarray:
    """Frames whose grey is their number."""
    return np.stack([np.full((size, size, 3), 10 * k + 20, np.uint8) for k in range(n)])


def grey(pixels: np.ndarray) -> list[int]:
    return [round((float(p.mean()) - 20) / 10) for p in pixels]


def test_frames_are_at_the_middles_of_equal_bins(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", counting(20), fps=10)
    found = sample_frames(tmp_path / "a.mp4", 5)
    assert found.duration == pytest.approx(2.0, abs=0.02)
    assert grey(found.pixels) == [2, 6, 10, 14, 18]
    assert found.seconds == pytest.approx((0.2, 0.6, 1.0, 1.4, 1.8), abs=0.02)
    assert grey(sample_frames(tmp_path / "a.mp4", 1, at=[0.55]).pixels) == [5]
    assert grey(sample_frames(tmp_path / "a.mp4", 1, at=[-1.0]).pixels) == [0]
    assert grey(sample_frames(tmp_path / "a.mp4", 1, at=[99.0]).pixels) == [19]


def test_a_variable_rate_goes_by_presentation_time(tmp_path: Path) -> None:
    """Nine frames in the first second, one that stays for the second: half of the bins show it."""
    times = [0.1 * k for k in range(10)] + [1.9]
    write_clip(tmp_path / "v.mp4", counting(11), fps=10, times=times)
    found = sample_frames(tmp_path / "v.mp4", 8)
    assert grey(found.pixels)[:4] == [1, 3, 6, 8]
    assert set(grey(found.pixels)[4:7]) == {9}


def test_few_frames_repeat_and_sides_are_bounded(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", counting(2, 64), fps=1)
    found = sample_frames(tmp_path / "a.mp4", 6, side=16)
    assert found.pixels.shape == (6, 16, 16, 3)
    assert grey(found.pixels) == [0, 0, 0, 1, 1, 1]


def test_the_same_frames_have_the_same_digest(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", counting(10), fps=5)
    write_clip(tmp_path / "b.mp4", counting(10)[::-1], fps=5)
    one, again, other = (sample_frames(tmp_path / name, 4).digest for name in ("a.mp4", "a.mp4", "b.mp4"))
    assert one == again != other


def test_rotation_that_the_file_asks_for_is_done(tmp_path: Path) -> None:
    """A display matrix of a quarter turn, as telephones write it, patched into the track header."""
    frames = np.zeros((4, 32, 64, 3), np.uint8)
    frames[:, :, :32] = 200  # bright on the left
    write_clip(tmp_path / "a.mp4", frames, fps=4)
    raw = bytearray((tmp_path / "a.mp4").read_bytes())

    def matrix(*rows: int) -> bytes:
        return b"".join(value.to_bytes(4, "big", signed=True) for value in rows)

    one, last = 0x10000, 0x40000000
    identity = matrix(one, 0, 0, 0, one, 0, 0, 0, last)
    quarter = matrix(0, one, 0, -one, 0, 0, 0, 0, last)
    place = raw.index(identity, raw.index(b"tkhd"))
    raw[place : place + 36] = quarter
    (tmp_path / "turned.mp4").write_bytes(raw)
    found = sample_frames(tmp_path / "turned.mp4", 1).pixels[0]
    assert found.shape == (64, 32, 3)
    # A quarter turn clockwise takes the left side to the top.
    assert found[:28].mean() > 150 > 50 > found[36:].mean()


def test_what_an_edit_list_cuts_off_is_not_part_of_the_clip(tmp_path: Path) -> None:
    """A clip that was trimmed without coding it anew: its first second is in the file, and is never shown."""
    write_clip(tmp_path / "a.mp4", counting(8), fps=4)
    raw = bytearray((tmp_path / "a.mp4").read_bytes())
    place = raw.index(b"elst") + 12  # past its version and its count: duration, first time in the media, rate
    scale = int.from_bytes(raw[raw.index(b"mdhd") + 16 : raw.index(b"mdhd") + 20], "big")
    raw[place : place + 8] = (1000).to_bytes(4, "big") + scale.to_bytes(4, "big")
    (tmp_path / "trimmed.mp4").write_bytes(raw)
    found = sample_frames(tmp_path / "trimmed.mp4", 2)
    assert found.duration == pytest.approx(1.0)
    assert grey(found.pixels) == [5, 7]


def test_a_file_that_is_sent_whole_is_looked_at_first(synth: Synth, tmp_path: Path) -> None:
    path = synth.videos / synth.corpus.ids[0]
    assert whole_file(path) == path.read_bytes()
    assert clip_length(path) == pytest.approx(12.0, abs=0.1)
    (tmp_path / "cut.mp4").write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError):
        whole_file(tmp_path / "cut.mp4")
    with pytest.raises(DataError, match="send frames"):
        whole_file(path, limits=Limits(sent_bytes=1000))


def test_sound_comes_as_wav_and_silence_as_none(synth: Synth, tmp_path: Path) -> None:
    raw = sound_of(synth.videos / synth.corpus.ids[0])
    assert raw is not None
    with wave.open(io.BytesIO(raw)) as file:
        assert (file.getnchannels(), file.getframerate()) == (1, 16_000)
        assert file.getnframes() / 16_000 == pytest.approx(12.0, abs=0.2)
    write_clip(tmp_path / "silent.mp4", counting(4), fps=4)
    assert sound_of(tmp_path / "silent.mp4") is None


def test_what_is_no_video_is_told_in_one_line(synth: Synth, tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    whole = (synth.videos / synth.corpus.ids[0]).read_bytes()
    (tmp_path / "head.mp4").write_bytes(whole[:200])
    for name in ("empty.mp4", "noise.mp4", "head.mp4", "none.mp4"):
        with pytest.raises(DataError) as caught:
            sample_frames(tmp_path / name, 4)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)


def cut_file(folder: Path, kind: str, share: float) -> Path:
    """A noisy clip of two seconds whose head comes first, of which a share of the bytes is there."""
    import av

    options = {"movflags": "faststart"} if kind == "mp4" else {}
    path = folder / f"cut.{kind}"
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libvpx" if kind == "webm" else "libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        generator = np.random.default_rng(0)
        for number in range(20):
            pixels = generator.integers(255, size=(64, 64, 3), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    raw = path.read_bytes()
    path.write_bytes(raw[: int(share * len(raw))])
    return path


@pytest.mark.parametrize("kind", ["mp4", "mkv", "webm", "avi", "flv"])
@pytest.mark.parametrize("share", [1.0, 0.8, 0.5, 0.2])
def test_half_of_a_clip_is_no_clip(tmp_path: Path, kind: str, share: float) -> None:
    """A copy that broke off keeps its head, and a decoder shows what is there as if it were all."""
    path = cut_file(tmp_path, kind, share)
    if share == 1.0:
        assert sample_frames(path, 4).duration == pytest.approx(2.0, abs=0.02)
        assert whole_file(path)
        return
    for use in (clip_length, whole_file, lambda p: sample_frames(p, 4)):
        with pytest.raises(DataError, match=r"cut off: .* of 2\.|not a video|damaged|no frame"):
            use(path)


def test_a_sound_that_is_longer_than_the_picture_is_no_cut(tmp_path: Path) -> None:
    """The last frame stays while the sound goes on."""
    sound = np.zeros(16_000 * 4, np.float32)
    write_clip(tmp_path / "a.mp4", counting(20), fps=10, sound=sound)
    assert clip_length(tmp_path / "a.mp4") == pytest.approx(2.0, abs=0.02)


def test_damage_before_a_wanted_frame_is_told(tmp_path: Path) -> None:
    path = cut_file(tmp_path, "mkv", 1.0)
    raw = bytearray(path.read_bytes())
    middle = len(raw) // 2
    raw[middle : len(raw) - 200] = bytes(len(raw) - 200 - middle)
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"damaged|cut off"):
        sample_frames(path, 8)


def test_a_file_without_a_frame_is_told(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(DataError, match="no video stream"):
        sample_frames(tmp_path / "sound.mp4", 4)


def test_damage_in_the_middle_is_survived_or_told(synth: Synth, tmp_path: Path) -> None:
    whole = bytearray((synth.videos / synth.corpus.ids[0]).read_bytes())
    start = whole.index(b"mdat") + 4
    for seed in range(6):
        broken = bytearray(whole)
        generator = np.random.default_rng(seed)
        for place in generator.integers(start, start + 20_000, size=400):
            broken[int(place)] = int(generator.integers(256))
        (tmp_path / "broken.mp4").write_bytes(broken)
        try:
            found = sample_frames(tmp_path / "broken.mp4", 8)
        except DataError:
            continue
        else:
            assert found.pixels.shape == (8, 72, 96, 3)


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        (Limits(file_bytes=100), "bytes"),
        (Limits(pixels=100), "frames of"),
        (Limits(video_seconds=1.0), "long"),
        (Limits(frames=3), "more than 3"),
        (Limits(decode_seconds=0.0), "decoding took"),
    ],
)
def test_every_limit_holds(synth: Synth, limits: Limits, told: str) -> None:
    with pytest.raises(DataError, match=told):
        sample_frames(synth.videos / synth.corpus.ids[0], 4, limits=limits)


def test_names_that_begin_with_a_dash_or_climb(tmp_path: Path) -> None:
    home = tmp_path / "videos"
    write_clip(home / "-6otZ7M.001.mp4", counting(4), fps=4)
    write_clip(tmp_path / "secret.mp4", counting(4), fps=4)
    found = clip_path(home, "-6otZ7M.001.mp4", "-6otZ7M.001.mp4")
    assert sample_frames(found, 2).pixels.shape[0] == 2
    assert clip_path(home, "", "-6otZ7M.001") == found
    for name in ("../secret.mp4", "/etc/passwd", "x/../../secret.mp4", "\0"):
        with pytest.raises(DataError):
            clip_path(home, name, "x")
    (home / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    with pytest.raises(DataError, match="stay inside"):
        clip_path(home, "link.mp4", "x")
    with pytest.raises(DataError, match="no clip"):
        clip_path(home, "absent.mp4", "absent")


def test_a_clip_holds_its_own_frames(tmp_path: Path) -> None:
    """A list that names another file is no clip, whatever it is called: FFmpeg would show the other one."""
    write_clip(tmp_path / "other.mp4", counting(4), fps=4)
    (tmp_path / "clip.mp4").write_text("ffconcat version 1.0\nfile other.mp4\n")
    with pytest.raises(DataError, match="not a video"):
        sample_frames(tmp_path / "clip.mp4", 1)


def test_a_crop_is_the_box_and_never_empty() -> None:
    pixels = np.arange(2 * 10 * 20 * 3, dtype=np.uint8).reshape(2, 10, 20, 3)
    assert (crop(pixels, (0.5, 0.2, 0.25, 0.4)) == pixels[:, 2:6, 10:15]).all()
    assert crop(pixels, (0.999, 0.999, 0.0, 0.0)).shape == (2, 2, 2, 3)
    assert jpeg(pixels[0]).startswith(b"\xff\xd8\xff")
