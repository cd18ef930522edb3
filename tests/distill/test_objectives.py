"""The loss algebra: gradients in closed form, guidance as a sum of pushes, and the Gaussian case solved exactly."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from noria.core.models.flow import clean_estimate, interpolate
from noria.distill.matching.objectives import (
    ca_direction,
    consistency_loss,
    dm_direction,
    extrapolate,
    flow_matching_loss,
    push,
    push_scale,
    renoise,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gradient(clean: Tensor, direction: Tensor, reference: Tensor, min_norm: float = 0.1) -> Tensor:
    x = clean.clone().requires_grad_()
    (g,) = torch.autograd.grad(push(x, direction, reference, min_norm), x)
    return g


def round_off(clean: Tensor, step: Tensor) -> Tensor:
    """What x̂ − (x̂ + step) may lose in float32, in units of the gradient."""
    return 4 * torch.finfo(torch.float32).eps * (clean.abs() + step.abs()) * 2 / clean.numel() + 1e-12


# --- the push ------------------------------------------------------------------------------------------------

seeds = st.integers(0, 10_000)
sizes = st.sampled_from([0.01, 0.3, 1.0, 30.0])


@given(seeds, sizes, sizes, st.sampled_from([(1, 1), (2, 3), (3, 2, 4, 4)]))
def test_the_gradient_is_the_direction_over_the_distance(
    seed: int, spread: float, far: float, shape: tuple[int, ...]
) -> None:
    """∂L/∂x̂ = −(2 / D) Δ / n, without a factor ½, n = max(mean |r − x̂|, 0.1) of each sample by itself."""
    clean, direction = normal(*shape, seed=seed), spread * normal(*shape, seed=seed + 1)
    reference = clean + far * normal(*shape, seed=seed + 2)
    distances = [max(float((r - x).abs().mean()), 0.1) for r, x in zip(reference, clean, strict=True)]
    n = torch.tensor(distances).reshape(-1, *[1] * (len(shape) - 1))
    expected = -2 / clean.numel() * direction / n
    error = (gradient(clean, direction, reference) - expected).abs()
    assert (error <= round_off(clean, direction / n) + 1e-5 * expected.abs()).all()


def test_a_close_reference_is_clamped_and_a_far_one_is_not() -> None:
    clean = normal(3, 5)
    offsets = torch.tensor([0.0, 0.05, 0.4])[:, None]
    torch.testing.assert_close(push_scale(clean, clean + offsets), torch.tensor([[0.1], [0.1], [0.4]]))
    torch.testing.assert_close(
        push_scale(clean, clean + offsets, 0.0), torch.tensor([[1e-8], [0.05], [0.4]]), atol=1e-7, rtol=1e-5
    )


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_pushes_nowhere(poison: float) -> None:
    clean, direction, reference = normal(2, 6), normal(2, 6, seed=1), normal(2, 6, seed=2)
    healthy = gradient(clean, direction, reference)
    sick = direction.clone()
    sick[0, 2] = poison
    got = gradient(clean, sick, reference)
    assert got[0, 2] == 0
    others = torch.ones(2, 6, dtype=torch.bool)
    others[0, 2] = False
    assert torch.equal(got[others], healthy[others])


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_sick_reference_stills_its_own_sample_only(poison: float) -> None:
    clean, direction, reference = normal(2, 6), normal(2, 6, seed=1), normal(2, 6, seed=2)
    healthy = gradient(clean, direction, reference)
    reference[0, 1] = poison
    got = gradient(clean, direction, reference)
    assert not got[0].any()
    assert torch.equal(got[1], healthy[1])


def test_the_distance_of_bfloat16_reads_does_not_overflow_or_round() -> None:
    clean = torch.zeros(1, 10_000, dtype=torch.bfloat16)
    reference = torch.full_like(clean, 300.0)
    assert push_scale(clean, reference).dtype == torch.float32
    assert push_scale(clean, reference).item() == 300.0


def test_only_the_estimate_receives_a_gradient() -> None:
    clean, direction, reference = (normal(2, 3, seed=n).requires_grad_() for n in range(3))
    push(clean, direction, reference).backward()
    assert clean.grad is not None
    assert direction.grad is None
    assert reference.grad is None


# --- guidance ------------------------------------------------------------------------------------------------


@given(seeds, st.floats(0, 10))
def test_ca_and_dm_together_are_one_guided_step(seed: int, alpha: float) -> None:
    """At one τ and noise, the two pushes sum to the push of DM with the real read guided by w = 1 + α."""
    clean, real, null, fake = (normal(2, 8, seed=seed + n) for n in range(4))
    guided = null + (1 + alpha) * (real - null)
    together = gradient(clean, ca_direction(real, null, alpha), real)
    together = together + gradient(clean, dm_direction(real, fake), real)
    torch.testing.assert_close(
        together, gradient(clean, dm_direction(guided, fake), real), atol=1e-5, rtol=1e-4
    )


def test_the_two_conventions_differ_by_one() -> None:
    real, null = normal(2, 3), normal(2, 3, seed=1)
    torch.testing.assert_close(
        ca_direction(real, null, 7.0), ca_direction(real, null, 8.0, convention="guidance")
    )
    assert not ca_direction(real, null, 1.0, convention="guidance").any()


# --- Gaussians, exactly --------------------------------------------------------------------------------------


def velocity(x: Tensor, tau: Tensor, mean: float | Tensor, std: float | Tensor) -> Tensor:
    """E[ε − x₀ | x_τ] for x₀ ~ N(mean, std²)."""
    t = tau[:, None]
    surprise = (x - (1 - t) * mean) / ((1 - t) ** 2 * std**2 + t**2)
    return t * surprise - (mean + (1 - t) * std**2 * surprise)


def score(x: Tensor, tau: Tensor, mean: float, std: float) -> Tensor:
    """∇ log p_τ(x), by autograd through the log density."""
    x, t = x.clone().requires_grad_(), tau[:, None]
    law = torch.distributions.Normal((1 - t) * mean, ((1 - t) ** 2 * std**2 + t**2).sqrt())
    (g,) = torch.autograd.grad(law.log_prob(x).sum(), x)
    return g


@given(seeds, st.floats(-2, 2), st.floats(0.2, 2), st.floats(-2, 2), st.floats(0.2, 2))
def test_the_direction_between_gaussians_is_the_difference_of_scores(
    seed: int, mean: float, std: float, mean_fake: float, std_fake: float
) -> None:
    """R_c − R_φ = (τ² / (1 − τ)) (s_real − s_fake)."""
    tau = 0.05 + 0.9 * torch.rand(4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    z = normal(4, 3, seed=seed).double()
    real = clean_estimate(z, velocity(z, tau, mean, std), tau)
    fake = clean_estimate(z, velocity(z, tau, mean_fake, std_fake), tau)
    expected = score(z, tau, mean, std) - score(z, tau, mean_fake, std_fake)
    expected = (tau**2 / (1 - tau))[:, None] * expected
    torch.testing.assert_close(dm_direction(real, fake), expected, atol=1e-9, rtol=1e-6)


def test_between_equal_spreads_the_direction_points_to_the_real_mean() -> None:
    tau = torch.linspace(0.05, 0.95, 19)
    z = normal(19, 5)
    for mean, fake in ((1.0, -1.0), (-0.5, 0.2)):
        reads = [clean_estimate(z, velocity(z, tau, m, 0.6), tau) for m in (mean, fake)]
        assert (dm_direction(*reads).sign() == math.copysign(1, mean - fake)).all()
    same = clean_estimate(z, velocity(z, tau, 1.0, 0.6), tau)
    assert not dm_direction(same, same).any()


def test_a_gaussian_student_becomes_the_teacher() -> None:
    """The generator a + b ε, pushed by exact reads, ends at the teacher's mean and spread (KL has one minimum)."""
    mean, std = 0.7, 0.4
    a, b = torch.tensor(-1.0, requires_grad=True), torch.tensor(1.5, requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam([a, b], lr=0.05)
    for step in range(600):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - step / 600)
        clean = a + b * torch.randn(256, 1, generator=generator)
        tau = torch.rand(256, generator=generator).clamp(0.02, 0.98)
        z = renoise(clean, torch.randn(256, 1, generator=generator), tau)
        with torch.no_grad():
            real = clean_estimate(z, velocity(z, tau, mean, std), tau)
            fake = clean_estimate(z, velocity(z, tau, a, b.abs()), tau)
        optimizer.zero_grad()
        push(clean, dm_direction(real, fake), real).backward()
        optimizer.step()
    assert a.item() == pytest.approx(mean, abs=0.03)
    assert abs(b.item()) == pytest.approx(std, abs=0.03)


def test_the_flow_loss_is_least_at_the_exact_velocity() -> None:
    clean, noise = 0.7 + 0.4 * normal(20_000, 1), normal(20_000, 1, seed=1)
    tau = torch.rand(20_000, generator=torch.Generator().manual_seed(2))
    x = interpolate(clean, noise, tau)
    best = float(flow_matching_loss(velocity(x, tau, 0.7, 0.4), clean, noise))
    for mean, std in ((0.8, 0.4), (0.6, 0.4), (0.7, 0.5), (0.7, 0.3)):
        assert float(flow_matching_loss(velocity(x, tau, mean, std), clean, noise)) > best
    assert float(flow_matching_loss(noise - clean, clean, noise)) == 0


# --- the small pieces ----------------------------------------------------------------------------------------


def test_extrapolating_to_where_one_is_changes_nothing_and_back_again_returns() -> None:
    x, v = normal(4, 3), normal(4, 3, seed=1)
    sigma, to = torch.rand(4), torch.rand(4)
    assert torch.equal(extrapolate(x, v, sigma, sigma), x)
    there = extrapolate(x, v, sigma, to)
    torch.testing.assert_close(extrapolate(there, v, to, sigma), x)


def test_on_a_straight_path_extrapolation_stays_on_the_path() -> None:
    clean, noise, sigma, to = normal(4, 3), normal(4, 3, seed=1), torch.rand(4), torch.rand(4)
    x = interpolate(clean, noise, sigma)
    torch.testing.assert_close(extrapolate(x, noise - clean, sigma, to), interpolate(clean, noise, to))


def test_renoising_passes_no_gradient_to_the_estimate() -> None:
    clean = normal(2, 3).requires_grad_()
    assert not renoise(clean, normal(2, 3, seed=1), torch.tensor([0.2, 0.8])).requires_grad


def test_consistency_pulls_the_earlier_point_only() -> None:
    estimate, target = normal(2, 3).requires_grad_(), normal(2, 3, seed=1).requires_grad_()
    consistency_loss(estimate, target).backward()
    assert target.grad is None
    torch.testing.assert_close(estimate.grad, (2 / 6 * (estimate - target)).detach())
