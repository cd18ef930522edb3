"""Advantages, credit and the policy loss: identities, limits, and agreement with loops and with autograd."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays

from noria.core.training.rl import clipped_tokens, credited, group_advantages, kl_estimate, policy_loss

ROWS = 24
rewards_of = arrays(np.float64, (ROWS, 2), elements=st.floats(-10, 10, width=32))
groups_of = arrays(np.int64, ROWS, elements=st.integers(-3, 5))


def by_loop(rewards: torch.Tensor, group: torch.Tensor, mask: torch.Tensor, epsilon: float) -> torch.Tensor:
    """The definition, one group after the other, with NumPy's own mean and deviation."""
    found = torch.zeros(rewards.shape)
    for g in set(group.tolist()):
        for k in range(rewards.shape[1]):
            rows = [i for i in range(len(group)) if group[i] == g and mask[i, k]]
            if len(rows) > 1 and np.std(rewards[rows, k].numpy(), ddof=1) > 1e-8:
                values = rewards[rows, k].numpy()
                scaled = (values - values.mean()) / (values.std(ddof=1) + epsilon)
                found[rows, k] = torch.from_numpy(scaled).float()
    return found


@given(rewards_of, groups_of, arrays(np.bool_, (ROWS, 2)))
def test_advantages_are_standard_scores_of_what_was_given(
    rewards: np.ndarray, group: np.ndarray, mask: np.ndarray
) -> None:
    r, g, m = torch.from_numpy(rewards), torch.from_numpy(group), torch.from_numpy(mask)
    found = group_advantages(r, g, mask=m)
    torch.testing.assert_close(found, by_loop(r, g, m, 1e-4), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(group_advantages(r.where(m, torch.nan), g), found)  # NaN is the same as masked


@given(rewards_of, groups_of, st.sampled_from(["group", "none", "batch"]))
def test_advantages_of_a_group_add_up_to_zero(rewards: np.ndarray, group: np.ndarray, scale: str) -> None:
    r, g = torch.from_numpy(rewards), torch.from_numpy(group)
    found = group_advantages(r, g, scale=scale)  # type: ignore[arg-type]
    for name in set(group.tolist()):
        torch.testing.assert_close(found[g == name].sum(0), torch.zeros(2), atol=2e-4, rtol=0)


@given(rewards_of, groups_of, st.floats(0.1, 50), st.floats(-20, 20), st.permutations(range(ROWS)))
def test_scale_level_and_order_of_rewards_do_not_matter(
    rewards: np.ndarray, group: np.ndarray, factor: float, shift: float, order: list[int]
) -> None:
    r, g = torch.from_numpy(rewards).round(decimals=2), torch.from_numpy(group)
    plain = group_advantages(r, g, epsilon=0, flat=1e-6)
    moved = group_advantages(r * factor + shift, g, epsilon=0, flat=1e-6 * factor)
    torch.testing.assert_close(plain, moved, atol=1e-3, rtol=1e-3)
    assert torch.equal(group_advantages(r[order], g[order], epsilon=0, flat=1e-6), plain[order]) or (
        torch.allclose(group_advantages(r[order], g[order], epsilon=0, flat=1e-6), plain[order], atol=1e-5)
    )


def test_closed_forms_of_a_binary_reward() -> None:
    """One success of eight scores (1 − p)/sd = 2.47, half of them ±0.94."""
    one = torch.tensor([1.0] + [0.0] * 7)
    half = torch.tensor([1.0] * 4 + [0.0] * 4)
    group = torch.tensor([0] * 8 + [1] * 8)
    found = group_advantages(torch.cat([one, half]), group, epsilon=0)
    assert found[:2].tolist() == pytest.approx([2.4749, -0.3536], abs=1e-4)
    assert found[8:].abs().tolist() == pytest.approx([0.9354] * 8, abs=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_no_number_is_left_out(bad: float) -> None:
    found = group_advantages(torch.tensor([1.0, 0.0, bad]), torch.zeros(3, dtype=torch.long))
    pair = group_advantages(torch.tensor([1.0, 0.0]), torch.zeros(2, dtype=torch.long))
    assert found.tolist() == [*pair.tolist(), 0.0]


def test_nothing_to_compare_is_no_signal() -> None:
    ones = torch.zeros(3, dtype=torch.long)
    assert group_advantages(torch.tensor([4.0]), torch.tensor([7])).tolist() == [0.0]
    assert group_advantages(torch.full((3,), math.nan), ones).tolist() == [0.0] * 3
    assert group_advantages(torch.full((3,), 0.1), ones).tolist() == [0.0] * 3
    assert group_advantages(torch.zeros(0), torch.zeros(0, dtype=torch.long)).shape == (0,)
    assert group_advantages(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long)).shape == (0, 2)


def test_types_and_large_levels() -> None:
    group = torch.tensor([0, 0, 0, 0])
    whole = group_advantages(torch.tensor([0, 1, 1, 0]), group)
    for kind in (torch.float16, torch.bfloat16, torch.float64, torch.bool):
        torch.testing.assert_close(group_advantages(torch.tensor([0, 1, 1, 0]).to(kind), group), whole)
    high = group_advantages(torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=torch.float64) + 1e9, group)
    torch.testing.assert_close(high, whole)


# -- credit ----------------------------------------------------------------------------------------------------


def test_credit_sends_components_to_their_tokens() -> None:
    advantages = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    spans = torch.zeros(2, 3, 2)
    spans[:, 0, 0] = 1  # the first token earns the first component,
    spans[:, :, 1] = 1  # every token the second
    assert credited(advantages, spans).tolist() == [[-1, -2, -2], [3.5, 3, 3]]
    assert credited(advantages).tolist() == [-1, 3.5]
    assert credited(advantages, torch.ones(2, 3)).tolist() == [[-1] * 3, [3.5] * 3]
    assert credited(torch.tensor([2.0]), torch.tensor([[0.0, 1.5]])).tolist() == [[0.0, 3.0]]
    with pytest.raises(ValueError, match="credit"):
        credited(advantages, torch.ones(2, 3, 5))


# -- the loss --------------------------------------------------------------------------------------------------


def sample(seed: int = 0) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    new = torch.randn(4, 6, generator=g).sub(2).requires_grad_()
    mask = torch.arange(6)[None] < torch.tensor([6, 3, 1, 0])[:, None]
    return new, new.detach().clone(), torch.randn(4, generator=g), mask


@pytest.mark.parametrize("aggregation", ["grpo", "dapo", "dr_grpo"])
def test_where_the_policy_is_the_writer_the_gradient_is_the_policy_gradient(aggregation: str) -> None:
    new, old, gain, mask = sample()
    lengths = mask.sum(1)
    weight = {
        "grpo": mask / lengths.clamp(min=1)[:, None] / 4,
        "dapo": mask / lengths.sum(),
        "dr_grpo": mask / (4 * 6),
    }[aggregation]
    normalizer = 24.0 if aggregation == "dr_grpo" else None
    found = policy_loss(new, old, gain, mask, aggregation=aggregation, normalizer=normalizer)  # type: ignore[arg-type]
    found.loss.backward()
    torch.testing.assert_close(new.grad, -(gain[:, None] * weight).to(torch.float32))
    assert float(found.clipped) == 0
    assert float(found.ratio) == pytest.approx(1)


@pytest.mark.parametrize("aggregation", ["grpo", "dapo", "dr_grpo"])
def test_parts_of_a_batch_add_up_to_the_whole(aggregation: str) -> None:
    new, old, gain, mask = sample(1)
    old = old + 0.3 * torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    normalizer = {"grpo": 4.0, "dapo": float(mask.sum()), "dr_grpo": 24.0}[aggregation]
    whole = policy_loss(new, old, gain, mask, aggregation=aggregation, normalizer=normalizer).loss  # type: ignore[arg-type]
    parts = sum(
        policy_loss(new[p], old[p], gain[p], mask[p], aggregation=aggregation, normalizer=normalizer).loss  # type: ignore[arg-type]
        for p in (slice(0, 1), slice(1, 4))
    )
    torch.testing.assert_close(whole, parts)


def test_a_token_past_the_clip_on_its_good_side_has_no_gradient() -> None:
    old = torch.zeros(1, 4)
    new = torch.tensor([[0.5, -0.5, 0.5, -0.5]], requires_grad=True)
    gain = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    found = policy_loss(new, old, gain, torch.ones(1, 4), clip_low=0.2, clip_high=0.28)
    found.loss.backward()
    assert (new.grad == 0).tolist() == [[True, False, False, True]]
    assert clipped_tokens(new - old, gain, clip_high=0.28).tolist() == [[True, False, False, True]]
    assert float(found.clipped) == 0.5


def test_what_is_masked_may_be_anything() -> None:
    new, old, gain, mask = sample(3)
    clean = policy_loss(new, old, gain, mask).loss
    dirty = new.detach().clone()
    dirty[~mask] = math.nan
    torch.testing.assert_close(policy_loss(dirty, old, gain, mask).loss, clean)


@given(arrays(np.float64, 8, elements=st.floats(-5, 5)))
def test_the_estimate_of_the_divergence_is_never_negative_and_unbiased_in_the_limit(gap: np.ndarray) -> None:
    assert (kl_estimate(torch.from_numpy(gap)) >= -1e-15).all()
    p, q = torch.tensor([0.2, 0.8], dtype=torch.float64), torch.tensor([0.5, 0.5], dtype=torch.float64)
    exact = (p * (p / q).log()).sum()
    torch.testing.assert_close((p * kl_estimate((p / q).log())).sum(), exact)


def test_the_divergence_pulls_back_to_the_reference() -> None:
    new = torch.tensor([[0.4]], requires_grad=True)
    found = policy_loss(
        new, new.detach(), torch.zeros(1), torch.ones(1, 1), reference_logprobs=torch.zeros(1, 1), beta=0.1
    )
    found.loss.backward()
    assert float(found.loss.detach()) == pytest.approx(0.1 * (math.exp(-0.4) - 1 + 0.4))
    assert float(new.grad) == pytest.approx(0.1 * (1 - math.exp(-0.4)))  # type: ignore[arg-type]


def test_dr_grpo_wants_a_length() -> None:
    with pytest.raises(ValueError, match="longest"):
        policy_loss(*sample(), aggregation="dr_grpo")
