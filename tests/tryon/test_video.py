"""Clips in and out: times, turns, sizes, sound; frames and pixels that come back as they were."""

from __future__ import annotations

import contextlib
import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

torch = pytest.importorskip("torch")
av = pytest.importorskip("av")

from noria.core.assets import find_asset  # noqa: E402
from noria.core.errors import DataError  # noqa: E402
from noria.core.video import Limits, opened  # noqa: E402
from noria.tryon.video.clips import encode_clip, read_clip  # noqa: E402
from noria.tryon.video.framing import chunk_starts, fit, pad_frames, person_box, whole_frames  # noqa: E402
from noria.tryon.video.masks import binary, blended, grown, loosened, mask_faults, smoothed, steady, without  # noqa: E402
from noria.tryon.video.reading import read_garment, read_mask, read_source  # noqa: E402


def ramp(n: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Frames whose grey is their number, with a bright corner at the top left."""
    frames = np.stack([np.full((height, width, 3), 20 + 3 * k, np.uint8) for k in range(n)])
    frames[:, :16, :16] = 220
    return frames


def written(path: Path, frames: np.ndarray, times: list[float], **more: Any) -> Path:
    path.write_bytes(encode_clip(frames, times, **more))
    return path


def test_a_clip_comes_back_with_its_times_colours_and_number(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.08, 0.2, 0.21, 0.5]  # a variable rate
    frames = ramp(6)
    frames[:, 16:, 32:] = [200, 40, 60]
    clip = read_clip(written(tmp_path / "a.mp4", frames, times, crf=1))
    assert clip.seconds.tolist() == pytest.approx(times, abs=2e-4)
    assert np.abs(clip.frames.astype(int) - frames).mean() < 2


@pytest.mark.parametrize("size", [(48, 64), (47, 63), (33, 64)], ids=["even", "odd", "mixed"])
def test_odd_sizes_stay_as_they_are(tmp_path: Path, size: tuple[int, int]) -> None:
    path = written(tmp_path / "a.mp4", ramp(3, *size), [0, 0.1, 0.2])
    assert read_clip(path).size == size


def with_sound(path: Path, codec: str) -> None:
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream(codec, rate=16000, layout="mono")
        for pixels in ramp(20):
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode())
        tone = (np.sin(np.arange(32000) / 16000 * 2 * np.pi * 440) * 8000).astype(np.int16)
        for start in range(0, len(tone), 1000):
            piece = av.AudioFrame.from_ndarray(tone[None, start : start + 1000], format="s16", layout="mono")
            piece.sample_rate, piece.pts, piece.time_base = 16000, start, Fraction(1, 16000)
            container.mux(audio.encode(piece))
        container.mux(audio.encode())


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(container.streams.audio[0]) if packet.size]


def test_sound_is_copied_byte_by_byte_where_mp4_takes_it(tmp_path: Path) -> None:
    source = tmp_path / "a.mp4"
    with_sound(source, "aac")
    copy = written(tmp_path / "b.mp4", ramp(20), [k / 10 for k in range(20)], sound=source)
    assert packets(copy) == packets(source)


def test_other_sound_is_encoded_anew_with_its_length(tmp_path: Path) -> None:
    source = tmp_path / "a.mkv"
    with_sound(source, "pcm_s16le")
    copy = written(tmp_path / "b.mp4", ramp(20), [k / 10 for k in range(20)], sound=source)
    with av.open(str(copy)) as container:
        stream = container.streams.audio[0]
        assert stream.codec_context.name == "aac"
        samples = sum(frame.samples for frame in container.decode(audio=0))
    assert samples == pytest.approx(32000, abs=2048)


def write_transport_stream(path: Path, lead: float) -> None:
    """Two seconds of MPEG-TS with mp2 from second 2 on; a light and a tone start .5 s later.

    Args:
        path: file to write.
        lead: seconds by which sound starts before the video.
    """
    with av.open(str(path), "w", format="mpegts") as container:
        video = container.add_stream("mpeg2video", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("mp2", rate=48000, layout="mono")
        for k in range(50):
            pixels = np.full((48, 64, 3), 200 if k / 25 >= 0.5 else 30, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            frame.time_base, frame.pts = Fraction(1, 25), k + 50
            container.mux(video.encode(frame))
        container.mux(video.encode())
        at = np.arange(round((2 + lead) * 48000)) / 48000 - lead
        tone = np.where(at >= 0.5, np.sin(at * 2 * np.pi * 440) * 8000, 0).astype(np.int16)
        for first in range(0, len(tone), 1152):
            part = tone[None, first : first + 1152]
            piece = av.AudioFrame.from_ndarray(part, format="s16", layout="mono")
            piece.sample_rate, piece.time_base = 48000, Fraction(1, 48000)
            piece.pts = first + round((2 - lead) * 48000)
            container.mux(sound.encode(piece))
        container.mux(sound.encode())


def light_and_tone(path: Path) -> tuple[float, float, float, float]:
    """Seconds at which the video, its light, the sound and its tone start."""
    with av.open(str(path)) as container:
        frames = [(f.time, f.to_ndarray(format="gray8").mean()) for f in container.decode(video=0)]
    with av.open(str(path)) as container:
        pieces = [(f.time, f.rate, f.to_ndarray().astype(float).ravel()) for f in container.decode(audio=0)]
    loud = max(np.abs(samples).max() for _, _, samples in pieces) / 4
    tone = next(
        t + float(np.argmax(np.abs(samples) > loud)) / rate
        for t, rate, samples in pieces
        if (np.abs(samples) > loud).any()
    )
    return frames[0][0], next(t for t, grey in frames if grey > 100), pieces[0][0], tone


@pytest.mark.parametrize("lead", [0.0, 0.3, -0.2])
def test_sound_that_is_encoded_anew_stays_with_its_pictures(tmp_path: Path, lead: float) -> None:
    source = tmp_path / "a.ts"
    write_transport_stream(source, lead)
    clip = read_clip(source)
    copy = written(tmp_path / "b.mp4", clip.frames, clip.seconds.tolist(), sound=source)
    for path, start in ((source, 2.0), (copy, 0.0)):
        video, light, sound, tone = light_and_tone(path)
        assert video == pytest.approx(start, abs=1e-3)
        assert tone - light == pytest.approx(0, abs=0.05)
    assert sound == pytest.approx(max(0, -lead), abs=0.05)  # of the copy


def test_sound_is_decoded_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "a.ts"
    write_transport_stream(source, 0)
    clip = read_clip(source)
    decoded, waiting, resampler = 0, [], av.AudioResampler

    class Source:
        def __init__(self, container: Any) -> None:
            self.streams = container.streams
            self.container = container

        def decode(self, stream: Any) -> Any:
            nonlocal decoded
            for frame in self.container.decode(stream):
                decoded += 1
                yield frame

    class Resampler:
        def __init__(self, **settings: Any) -> None:
            self.inner = resampler(**settings)

        def resample(self, frame: Any) -> Any:
            waiting.append(decoded - len(waiting))
            return self.inner.resample(frame)

    @contextlib.contextmanager
    def spied(path: Path) -> Any:
        with opened(path) as container:
            yield Source(container)

    monkeypatch.setattr("noria.tryon.video.clips.opened", spied)
    monkeypatch.setattr(av, "AudioResampler", Resampler)
    encode_clip(clip.frames, clip.seconds.tolist(), sound=source)
    assert decoded > 80
    assert max(waiting) == 1


def test_a_clip_without_sound_stays_silent(tmp_path: Path) -> None:
    source = written(tmp_path / "a.mp4", ramp(4), [0, 0.1, 0.2, 0.3])
    with av.open(str(written(tmp_path / "b.mp4", ramp(4), [0, 0.1, 0.2, 0.3], sound=source))) as container:
        assert not container.streams.audio


def test_ten_bits_and_one_frame_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p10le"
        container.mux(
            video.encode(
                av.VideoFrame.from_ndarray(ramp(1)[0], format="rgb24").reformat(format="yuv420p10le")
            )
        )
        container.mux(video.encode())
    clip = read_clip(path)
    assert len(clip.frames) == 1
    assert abs(int(clip.frames[0, 40, 40, 0]) - 20) < 4


def test_hostile_clips_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.mp4", ramp(30), [k / 10 for k in range(30)])
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    text = tmp_path / "t.mp4"
    text.write_text("#EXTM3U\nfile:///etc/passwd\n")
    for bad in (cut, text, tmp_path / "absent.mp4", tmp_path):
        with pytest.raises(DataError):
            read_clip(bad)
    with pytest.raises(DataError, match="frames of"):
        read_clip(path, limits=Limits(pixels=100))


def test_a_clip_whose_size_changes_is_refused(tmp_path: Path) -> None:
    parts = []
    for width, first in ((64, 0), (96, 10)):
        with av.open(str(tmp_path / "part.ts"), "w", format="mpegts") as container:
            stream = container.add_stream("mpeg2video", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, 48, "yuv420p"
            for number, pixels in enumerate(ramp(10, 48, width), first):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        parts.append((tmp_path / "part.ts").read_bytes())
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(parts))
    with pytest.raises(DataError, match="size changes"):
        read_clip(path)


def test_a_real_clip_keeps_its_frames_and_times(tmp_path: Path) -> None:
    folder = find_asset("clips")
    if folder is None:
        pytest.skip("noria assets clips")
    clip = read_clip(folder / "carphone_pristine.mp4")
    assert clip.frames.shape == (120, 144, 176, 3)
    again = read_clip(written(tmp_path / "a.mp4", clip.frames, clip.seconds.tolist(), sound=clip.path))
    assert again.seconds == pytest.approx(clip.seconds, abs=1e-4)
    assert np.abs(again.frames.astype(int) - clip.frames).mean() < 3


@given(st.integers(1, 200), st.integers(1, 300), st.integers(256, 40_000))
@settings(deadline=None, max_examples=60)
def test_any_part_of_a_frame_comes_back_at_its_size(height: int, width: int, most: int) -> None:
    way = fit((0, 0, height, width), most)
    assert all(side % 16 == 0 for side in way.canvas)
    assert way.canvas[0] * way.canvas[1] <= max(most, 256) or min(way.inner) == 1
    video = torch.rand(3, 2, height, width)
    there = way.forward(video)
    assert there.shape[2:] == way.canvas
    assert way.back(there).shape == video.shape
    if way.inner == (height, width):
        assert torch.equal(way.back(there), video)


@given(st.integers(1, 400))
@settings(deadline=None, max_examples=60)
def test_every_number_of_frames_comes_back(number: int) -> None:
    whole = whole_frames(number)
    assert whole % 4 == 1
    assert number <= whole < number + 4
    video = torch.arange(number)[None, :, None, None]
    padded = pad_frames(video, whole)
    assert torch.equal(padded[:, :number], video)
    assert bool((padded[:, number:] == number - 1).all())


@given(st.integers(1, 60), st.integers(2, 20), st.integers(0, 18))
@settings(deadline=None, max_examples=60)
def test_chunks_cover_a_clip_on_the_grid_of_its_latent_frames(frames: int, size: int, overlap: int) -> None:
    frames, size, overlap = 4 * frames + 1, 4 * size + 1, 4 * min(overlap, size - 1) + 1
    starts = chunk_starts(frames, size, overlap)
    assert all(start % 4 == 0 for start in starts)
    covered = {f for start in starts for f in range(start, min(frames, start + size))}
    assert covered == set(range(frames))
    assert all(one + size - other >= overlap for one, other in itertools.pairwise(starts))


def test_the_person_box_holds_the_mask_and_needs_no_padding() -> None:
    mask = torch.zeros(3, 100, 200, dtype=torch.bool)
    mask[1, 40:60, 90:120] = True
    top, left, height, width = person_box(mask)
    assert top <= 40
    assert left <= 90
    assert top + height >= 60
    assert left + width >= 120
    assert height % 16 == 0
    assert width % 16 == 0
    assert person_box(torch.zeros(1, 10, 12)) == (0, 0, 10, 12)


def test_masks_of_any_form_are_one() -> None:
    wanted = torch.zeros(2, 4, 4, dtype=torch.bool)
    wanted[:, 1:3] = True
    for form in (
        wanted,
        wanted.float(),
        wanted.byte() * 255,
        (wanted.byte() * 255)[..., None].repeat(1, 1, 1, 3),
    ):
        assert torch.equal(binary(form), wanted)


def test_a_mask_is_smoothed_grown_and_keeps_still_in_an_action() -> None:
    mask = torch.zeros(7, 9, 9, dtype=torch.bool)
    mask[:, 4, 4] = True
    mask[3] = False  # one frame flickers
    assert bool(smoothed(mask, 3)[3, 4, 4])
    assert int(grown(mask, 1)[0].sum()) == 9
    assert torch.equal(grown(grown(mask, 2), -2), mask)
    mask[5, 0, 0] = True  # the hem is lifted
    still = steady(mask, [(4, 7)])
    assert all(torch.equal(still[f], still[4]) for f in (5, 6))
    assert torch.equal(still[:4], mask[:4])


def test_hands_stay_out_of_the_mask_and_a_box_hides_the_outline() -> None:
    mask = torch.zeros(1, 12, 12, dtype=torch.bool)
    mask[0, 2:10, 2:10] = True
    hands = torch.zeros_like(mask)
    hands[0, 4:9, 4:9] = True
    open_ = without(mask, hands)
    assert int(open_.sum()) == 64 - 9  # the eroded hand
    mask[0, 3, 3] = False
    assert int(loosened(mask, "box").sum()) == 64
    assert not loosened(torch.zeros_like(mask), "box").any()


def test_masks_that_fail_are_named_by_frame() -> None:
    mask = torch.zeros(20, 20, 20, dtype=torch.bool)
    mask[:, 5:15, 5:15] = True
    assert not mask_faults(mask)
    mask[3], mask[8] = False, True
    mask[12] = False
    mask[12, 5:8, 5:15] = True
    assert [(f.frame, f.reason) for f in mask_faults(mask)] == [
        (3, "empty"),
        (8, "whole frame"),
        (12, "collapses"),
    ]


def test_the_blend_leaves_every_byte_outside_and_takes_the_result_inside() -> None:
    draw = torch.Generator().manual_seed(0)
    source = torch.randint(0, 256, (2, 20, 20, 3), generator=draw).to(torch.uint8)
    made = torch.randint(0, 256, (2, 20, 20, 3), generator=draw).to(torch.uint8)
    mask = torch.zeros(2, 20, 20, dtype=torch.bool)
    mask[:, 4:16, 4:16] = True
    result = blended(source, made, mask, 3)
    assert torch.equal(result[~mask], source[~mask])
    assert torch.equal(result[:, 7:13, 7:13], made[:, 7:13, 7:13])
    assert torch.equal(blended(source, made, mask, 0)[mask], made[mask])


def test_pictures_masks_and_garments_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    from PIL import Image

    clip = read_source(written(tmp_path / "a.mp4", ramp(5), [k / 10 for k in range(5)]))
    Image.new("L", (64, 48), 255).save(tmp_path / "one.png")
    assert bool(read_mask(tmp_path / "one.png", clip).all())
    np.savez(tmp_path / "short.npz", mask=np.ones((4, 48, 64)))
    with pytest.raises(DataError, match="4 frames"):
        read_mask(tmp_path / "short.npz", clip)
    np.savez(tmp_path / "object.npz", mask=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="npz"):
        read_mask(tmp_path / "object.npz", clip)
    with pytest.raises(DataError, match="one colour"):
        read_garment(tmp_path / "one.png")
