"""Metrics against closed forms: equal videos, Gaussians with known distance, hands that hold and let go."""

from __future__ import annotations

import bisect
import functools
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

torch = pytest.importorskip("torch")

from noria.core.errors import DataError  # noqa: E402
from noria.tryon.evaluation.interaction import (  # noqa: E402
    action_timing_accuracy,
    block_flow,
    contact_f1,
    contacts,
    coupling,
    onset_errors,
    penetration,
)
from noria.tryon.evaluation.keeping import Likeness, compare  # noqa: E402
from noria.tryon.evaluation.pictures import Lpips, open_lpips, ssim, ssim_map  # noqa: E402
from noria.tryon.evaluation.videos import (  # noqa: E402
    CatV2TonWindows,
    PixelFeatures,
    ScriptFeatures,
    frechet,
    moments,
    windows,
)


def test_ssim_of_equal_frames_is_one_and_of_constants_has_its_closed_form() -> None:
    draw = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, 3, 16, 20), generator=draw).float()
    assert torch.allclose(ssim(frames, frames), torch.ones(2, dtype=torch.float64))
    a, b, c1 = 100.0, 130.0, (0.01 * 255) ** 2
    flat = [torch.full((1, 1, 12, 12), v) for v in (a, b)]
    assert float(ssim(*flat)) == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1), rel=1e-6)
    assert float(ssim(frames, 255 - frames).max()) < 0.2
    with pytest.raises(ValueError, match="11 pixels"):
        ssim(frames[..., :8], frames[..., :8])


def most_memory(call: Callable[[], object], folder: Path) -> int:
    """Most bytes that tensors take at a time while something runs, as PyTorch's profiler counts them."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    seen.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    return max(itertools.accumulate(one["args"]["Bytes"] for one in events if one["name"] == "[memory]"))


@pytest.mark.parametrize("what", ["ssim", "compare"])
def test_the_memory_of_ssim_is_that_of_a_group_of_frames(tmp_path: Path, what: str) -> None:
    draw = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, 96, 3, 24, 32), generator=draw, dtype=torch.uint8)

    def measure(number: int) -> object:
        one, other = frames[:, :number]
        where = one[:, 0] > 40
        parts = [Likeness(), Likeness(where, pure=True), Likeness(where)]
        return ssim(one, other) if what == "ssim" else compare(one, other, parts)

    few, many = (most_memory(functools.partial(measure, number), tmp_path) for number in (16, 96))
    assert few > 200 * 8 * 24 * 32  # bytes of a group
    assert many == pytest.approx(few, rel=0.1)  # the masks of all frames among them


def test_figures_of_groups_of_frames_are_those_of_the_clip() -> None:
    draw = torch.Generator().manual_seed(0)
    one, other = torch.randint(0, 256, (2, 19, 3, 24, 32), generator=draw, dtype=torch.uint8)
    where = torch.zeros(19, 24, 32, dtype=torch.bool)
    where[:15, 3:20, 4:30] = True
    parts = [Likeness(), Likeness(where), Likeness(where, pure=True)]
    assert compare(one, other, parts) is None
    values = ssim_map(one, other)
    squares = (one.double() - other.double()).square().mean(1)
    inner = where[:, 5:-5, 5:-5]
    windows_within = torch.nn.functional.avg_pool2d(where.double(), 11, stride=1) > 1 - 1e-9
    wanted = [
        (values.mean(), squares.mean()),
        (values[inner].mean(), squares[where].mean()),
        (values[windows_within].mean(), squares[where].mean()),
    ]
    for part, (similar, square) in zip(parts, wanted, strict=True):
        assert part.ssim == pytest.approx(float(similar), abs=1e-12)
        assert part.psnr == pytest.approx(10 * np.log10(255**2 / float(square)), abs=1e-9)
    assert torch.allclose(ssim(one, other), values.flatten(1).mean(1), rtol=0, atol=1e-12)


def alexnet() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(0)
    shapes = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    backbone, heads = {}, {}
    for number, (place, (out, into, side)) in enumerate(shapes.items()):
        backbone[f"features.{place}.weight"] = torch.randn(out, into, side, side, generator=draw) * 0.05
        backbone[f"features.{place}.bias"] = torch.zeros(out)
        heads[f"lin{number}.model.1.weight"] = torch.rand(1, out, 1, 1, generator=draw)
    return backbone, heads


def test_lpips_is_a_distance_of_its_weights(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    backbone, heads = alexnet()
    save_file(backbone, tmp_path / "a.safetensors")
    torch.save(heads, tmp_path / "h.pth")
    network = open_lpips(tmp_path / "a.safetensors", tmp_path / "h.pth")
    draw = torch.Generator().manual_seed(1)
    one, other = torch.rand(2, 2, 3, 64, 64, generator=draw) * 2 - 1
    assert torch.equal(network(one, one), torch.zeros(2))
    assert torch.allclose(network(one, other), network(other, one))
    near, far = network(one, one + 0.01), network(one, other)
    assert bool((near < far).all())
    double = Lpips(backbone, {name: 2 * value for name, value in heads.items()})
    assert torch.allclose(double(one, other), 2 * far)
    many = torch.randint(0, 256, (2, 11, 3, 64, 64), generator=draw, dtype=torch.uint8)
    whole = network(*(side / 127.5 - 1 for side in many)).mean()
    assert compare(*many, [], network) == pytest.approx(float(whole), rel=1e-5)
    torch.save({"model": object}, tmp_path / "bad.pth")
    with pytest.raises(DataError, match="weights"):
        open_lpips(tmp_path / "a.safetensors", tmp_path / "bad.pth")


@given(st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_the_frechet_distance_of_gaussians_with_common_axes(seed: int) -> None:
    draw = np.random.default_rng(seed)
    mean, variances = draw.normal(size=(2, 5)), draw.uniform(0.1, 2, (2, 5))
    axes = np.linalg.qr(draw.normal(size=(5, 5)))[0]
    one, other = ((axes @ m, axes @ np.diag(v) @ axes.T) for m, v in zip(mean, variances, strict=True))
    expected = (
        np.square(mean[0] - mean[1]).sum() + np.square(np.sqrt(variances[0]) - np.sqrt(variances[1])).sum()
    )
    assert frechet(one, other) == pytest.approx(expected, rel=1e-6)
    assert frechet(one, one) == pytest.approx(0, abs=1e-8)


def video(frames: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, 8, 8, 3), dtype=np.uint8)


def test_every_frame_is_in_a_window() -> None:
    clip = video(23)
    parts = list(windows(clip, 10))
    assert len(parts) == 3
    assert torch.equal(parts[-1], (torch.tensor(clip[13:]).permute(3, 0, 1, 2) / 127.5 - 1))
    (short,) = windows(video(7), 10)
    assert torch.equal(short[:, 7], short[:, 6])


@given(st.lists(st.integers(10, 60), min_size=1, max_size=6))
@settings(deadline=None, max_examples=40)
def test_the_published_script_sees_the_first_frames_again_and_again(counts: list[int]) -> None:
    length, accumulated = 10, list(itertools.accumulate(counts))
    ends = [total // length for total in accumulated]
    expected = []
    for index in range(ends[-1]):  # its arithmetic, step by step
        which = bisect.bisect_left(ends, index)
        assert (index - ends[which]) * length <= 0  # the frame that it asks OpenCV for
        expected.append(which)
    clips = [np.full((count, 4, 4, 3), [number, 100, 200], np.uint8) for number, count in enumerate(counts)]
    cut = CatV2TonWindows(length)
    parts = [part for number, clip in enumerate(clips, 1) for part in cut(clip, number == len(clips))]
    assert [round(float((part[2, 0, 0, 0] + 1) * 127.5)) for part in parts] == expected
    assert all(round(float((part[0, 0, 0, 0] + 1) * 127.5)) == 200 for part in parts)  # blue first


def test_moments_are_those_of_numpy_and_a_window_is_seen_once() -> None:
    parts = list(windows(video(40), 5))
    seen = []

    def features(batch: torch.Tensor) -> torch.Tensor:
        seen.append(len(batch))
        return PixelFeatures(2)(batch)

    mean, covariance, number = moments(parts, features, batch=3)
    values = PixelFeatures(2)(torch.stack(parts)).double().numpy()
    assert (number, sum(seen)) == (8, 8)
    assert np.allclose(mean, values.mean(0))
    assert np.allclose(covariance, np.cov(values.T))
    with pytest.raises(DataError, match="1 windows"):
        moments(parts[:1], features)


@pytest.mark.parametrize("shape", [(10, 24, 32), (7, 13, 30), (2, 4, 5)])
def test_means_of_pixels_are_adaptive_pooling(shape: tuple[int, int, int]) -> None:
    parts = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    pool = torch.nn.functional.adaptive_avg_pool3d
    moves = pool(parts.diff(dim=2).abs(), (3, 4, 4))
    expected = torch.cat([pool(parts, (3, 4, 4)).flatten(1), moves.flatten(1)], dim=1)
    assert torch.allclose(PixelFeatures()(parts), expected, atol=1e-6)


def test_a_users_network_is_torchscript(tmp_path: Path) -> None:
    class Mean(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(dim=(2, 3, 4))

    torch.jit.script(Mean()).save(str(tmp_path / "n.pt"))
    parts = torch.stack(list(windows(video(10), 5)))
    expected = torch.nn.functional.interpolate(parts, size=(5, 16, 16), mode="trilinear").mean(dim=(2, 3, 4))
    assert torch.allclose(ScriptFeatures(tmp_path / "n.pt", 16)(parts), expected, atol=1e-6)
    (tmp_path / "bad.pt").write_bytes(b"x")
    with pytest.raises(DataError, match="TorchScript"):
        ScriptFeatures(tmp_path / "bad.pt")


def test_timing_counts_the_segments_with_an_action_only() -> None:
    truth = np.array([[0, 1, 2, 0]])
    assert action_timing_accuracy(np.array([[1, 1, 0, 1]]), truth) == 0.5
    assert action_timing_accuracy(truth * 0, truth * 0) is None


def test_onsets_are_matched_once_and_the_rest_is_counted() -> None:
    seconds = np.arange(40) / 10
    motion = np.zeros(40)
    motion[10:15], motion[30:33] = 1.0, 0.8
    found = onset_errors(motion, seconds, [0.9, 1.1])
    assert found.mean == pytest.approx(0.1)
    assert (found.missed, found.extra) == (1, 1)
    assert onset_errors(np.zeros(40), seconds, [1.0]).mean is None


def test_contact_penetration_and_coupling() -> None:
    hands = np.zeros((4, 20, 20), np.bool_)
    garment = np.zeros_like(hands)
    hands[:, 5:8, 5:8] = True
    garment[:2, 5:8, 9:12] = True  # two pixels away
    garment[2, 5:8, 14:18] = True
    garment[3, 6, 6] = True
    assert contacts(hands, garment).tolist() == [True, True, False, True]
    assert penetration(hands, garment) == pytest.approx(1 / 36)
    assert penetration(hands & False, garment) is None
    shown, truth = np.array([True, True, False, False]), np.array([True, False, True, False])
    assert contact_f1(shown, truth) == 0.5
    assert contact_f1(shown & False, truth & False) is None
    moves = np.random.default_rng(0).normal(size=(9, 2))
    assert coupling(moves, 2 * moves, np.ones(9, np.bool_)) == pytest.approx(1)
    assert coupling(moves, -moves, np.ones(9, np.bool_)) == pytest.approx(-1)
    assert coupling(moves, moves * 0, np.ones(9, np.bool_)) is None


def test_block_flow_follows_a_shifted_picture() -> None:
    big = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    frames = np.stack([np.roll(big, (t, 2 * t), axis=(0, 1)) for t in range(4)])
    points = np.array([[20.0 + 2 * t, 20 + t] for t in range(4)])
    points[2] = np.nan
    flow = block_flow(frames, points)
    assert flow[:2].tolist() == [[2, 1], [2, 1]]
    assert np.isnan(flow[2]).all()


def test_of_movements_that_fit_alike_the_smallest_is_taken() -> None:
    frames = np.random.default_rng(0).integers(0, 2, (60, 11, 11, 3), dtype=np.uint8)  # many ties
    flow = block_flow(frames, np.full((60, 2), 5.0), block=1, search=4)
    grey = frames.sum(-1, dtype=int)
    for t in range(59):
        costs = {
            (dx, dy): int(np.abs(grey[t + 1, 4 + dy : 7 + dy, 4 + dx : 7 + dx] - grey[t, 4:7, 4:7]).sum())
            for dx in range(-4, 5)
            for dy in range(-4, 5)
        }
        best = min((cost, x * x + y * y) for (x, y), cost in costs.items())
        dx, dy = (int(way) for way in flow[t])
        assert (costs[dx, dy], dx * dx + dy * dy) == best
