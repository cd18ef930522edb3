"""A-RoPE, segments and the action-aware loss, against their definitions and the numbers that follow from them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings, strategies as st

torch = pytest.importorskip("torch")

from noria.tryon.attention.constraint import constrained_loss  # noqa: E402
from noria.tryon.attention.rotary import alignment, rotary_angles, rotate  # noqa: E402
from noria.tryon.attention.segments import assign, coverage, latent_frames, positions, relay_penalty  # noqa: E402

spans = st.lists(
    st.tuples(st.floats(0, 4.5), st.floats(0.1, 3)).map(lambda pair: (pair[0], pair[0] + pair[1])), max_size=5
).map(sorted)


def at(fps: float, frames: int) -> list[float]:
    return [frame / fps for frame in range(frames)]


def test_the_kernel_has_the_values_of_its_closed_form() -> None:
    distances = torch.tensor([0.0, 4, 8, 12, 16, 20, 24, 32, 64])
    expected = torch.tensor([1, 0.759, 0.714, 0.662, 0.620, 0.608, 0.589, 0.557, 0.477])
    assert torch.allclose(alignment(distances, 128), expected, atol=6e-4)


@given(st.integers(-50, 50), st.integers(-50, 50), st.integers(-20, 20))
@settings(deadline=None, max_examples=30)
def test_a_logit_depends_on_the_difference_of_positions_only(query: int, key: int, shift: int) -> None:
    heads = torch.randn(2, 1, 1, 3, 12, generator=torch.Generator().manual_seed(0)).double().float()

    def logit(one: int, other: int) -> torch.Tensor:
        turned = [
            rotate(part, *rotary_angles(torch.tensor([[at]]), 12))
            for part, at in zip(heads, (one, other), strict=True)
        ]
        return (turned[0] * turned[1]).sum(-1)

    assert torch.allclose(logit(query, key), logit(query + shift, key + shift), atol=1e-5)
    assert torch.allclose(logit(key, key), (heads[0] * heads[1]).sum(-1), atol=1e-5)


def test_coverage_follows_the_causal_autoencoder() -> None:
    # 9 frames at 8 a second: latents cover {0}, {1..4}, {5..8}; the span [1/8, 6/8) holds frames 1..5
    assert coverage([(1 / 8, 6 / 8)], at(8, 9)).tolist() == [[0, 1, 0.25]]
    assert latent_frames(81) == 21
    with pytest.raises(ValueError, match="4m"):
        latent_frames(64)


def test_every_action_gets_a_frame_and_ties_go_to_the_earlier() -> None:
    assert assign([(1 / 8, 2 / 8)], at(8, 9)).tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="action 2"):
        assign([(1 / 8, 3 / 8), (3 / 8, 5 / 8)], at(8, 9))
    assert assign([(1 / 8, 5 / 8), (1 / 8, 9 / 8)], at(8, 9)).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="no frame"):
        assign([(5.0, 6.0)], at(8, 9))


@given(spans)
@settings(deadline=None, max_examples=60)
def test_segments_hold_each_action_or_say_that_they_cannot(actions: list[tuple[float, float]]) -> None:
    try:
        segments = assign(actions, at(16, 81))
    except ValueError:
        return
    assert set(range(1, len(actions) + 1)) <= set(segments.tolist()) <= set(range(len(actions) + 1))
    shares = coverage(actions, at(16, 81))
    assert all(shares[n - 1, at] > 0 for at, n in enumerate(segments.tolist()) if n)


def test_the_two_ways_of_counting() -> None:
    segments = torch.tensor([0, 1, 1, 0, 2, 1])
    assert positions(segments, "anchored")[1] == {1: 1, 2: 2}
    queries, keys = positions(segments, "paper")
    assert queries.tolist() == [0, 1, 1, 2, 3, 4]
    assert keys == {1: 1, 2: 3}
    assert not positions(torch.zeros(5, dtype=torch.long), "anchored")[0].any()


def test_the_penalty_is_nothing_at_the_middle_and_a_tenth_at_the_end() -> None:
    queries = torch.tensor([[0, 1, 1, 1, 1, 1, 0, 0]])
    penalty = relay_penalty(queries, torch.tensor([[1, 2]]))
    assert penalty[0, 3, 0] == 0
    assert bool(penalty[0, :, 1].isinf().all())
    half = 2.5
    expected = math.log(10) * ((3 - half / 2) / (half / 2)) ** 2
    assert penalty[0, 6, 0] == pytest.approx(expected)


def test_the_constraint_is_a_weight_on_the_acting_frames() -> None:
    draw = torch.Generator().manual_seed(0)
    predicted, target = torch.randn(2, 2, 3, 5, 4, 4, generator=draw).unbind(0)
    predicted.requires_grad_(True)
    acting = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 0, 0, 1]])
    plain = (predicted - target).square().mean()
    assert torch.allclose(constrained_loss(predicted, target, acting, 0.0), plain)
    assert torch.allclose(constrained_loss(predicted, target, torch.ones(2, 5), 0.5), 1.5 * plain)
    (base,) = torch.autograd.grad(plain, predicted, retain_graph=True)
    (grown,) = torch.autograd.grad(constrained_loss(predicted, target, acting, 0.5), predicted)
    assert torch.allclose(grown, base * (1 + 0.5 * acting[:, None, :, None, None]))
    none = constrained_loss(predicted, target, torch.zeros(2, 5), 0.5, "masked")
    assert torch.allclose(none, plain)


def test_half_of_a_latent_frame_is_enough_and_a_quarter_is_not() -> None:
    assert assign([(1 / 8, 7 / 8)], at(8, 9)).tolist() == [
        0,
        1,
        1,
    ]  # frames 1..6: all of one, half of the next
    assert assign([(1 / 8, 6 / 8)], at(8, 9)).tolist() == [0, 1, 0]  # frames 1..5: a quarter of the next
