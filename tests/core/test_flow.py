"""Flow matching: the Gaussian case in closed form, the σ contract against diffusers, EMA, the small transformer."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given, strategies as st
from torch import Tensor, nn

from noria.core.errors import ConfigError
from noria.core.models.flow import (
    Ema,
    SigmaContract,
    SmallTransformer,
    SmallTransformerConfig,
    clean_estimate,
    euler,
    interpolate,
)

SD3 = [1.0, 0.75, 0.5, 0.25]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gaussian_velocity(x: Tensor, sigma: Tensor, mean: float, std: float) -> Tensor:
    """E[ε − x₀ | x_σ] for x₀ ~ N(mean, std²): Gaussian conditioning, the exact velocity field."""
    sigma = sigma.reshape(-1, *[1] * (x.ndim - 1))
    variance = (1 - sigma) ** 2 * std**2 + sigma**2
    surprise = (x - (1 - sigma) * mean) / variance
    return sigma * surprise - (mean + (1 - sigma) * std**2 * surprise)


# --- the path ------------------------------------------------------------------------------------------------


@given(st.integers(0, 999), st.floats(0, 1))
def test_the_clean_estimate_undoes_the_interpolation(seed: int, level: float) -> None:
    clean, noise = normal(3, 2, 4, 4, seed=seed), normal(3, 2, 4, 4, seed=seed + 1)
    sigma = torch.tensor([level, 0.0, 1.0])
    x = interpolate(clean, noise, sigma)
    torch.testing.assert_close(clean_estimate(x, noise - clean, sigma), clean, atol=1e-5, rtol=0)
    assert torch.equal(x[1], clean[1])
    assert torch.equal(x[2], noise[2])


def test_a_straight_path_is_integrated_exactly_by_any_grid() -> None:
    clean, noise = normal(5, 3), normal(5, 3, seed=1)
    for grid in ([1.0, 0.0], [1.0, 0.31, 0.3, 0.0], [1.0, 0.5, 0.5, 0.0]):
        torch.testing.assert_close(
            euler(lambda x, s: noise - clean, noise, torch.tensor(grid)), clean, atol=1e-6, rtol=0
        )


def test_many_euler_steps_transport_a_gaussian_by_its_closed_form() -> None:
    # The probability-flow ODE of N(m, s²) carries ε to m + s ε; its error falls as 1 / steps.
    mean, std = 0.7, 0.4
    noise = normal(64, 2)
    errors = []
    for steps in (100, 200, 400):
        end = euler(lambda x, s: gaussian_velocity(x, s, mean, std), noise, torch.linspace(1, 0, steps + 1))
        errors.append(float((end - (mean + std * noise)).abs().max()))
    assert errors[-1] < 0.01
    for coarse, fine in itertools.pairwise(errors):
        assert 1.7 < coarse / fine < 2.3


def test_one_step_from_noise_lands_on_the_mean() -> None:
    end = euler(lambda x, s: gaussian_velocity(x, s, 0.7, 0.4), normal(8, 2), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(end, torch.full((8, 2), 0.7))


def test_the_clean_estimate_of_the_exact_velocity_is_the_posterior_mean() -> None:
    mean, std, level = -0.3, 0.8, 0.6
    clean = mean + std * normal(200_000, seed=3)
    x = interpolate(clean, normal(200_000, seed=4), torch.full((200_000,), level))
    estimate = clean_estimate(
        x, gaussian_velocity(x, torch.tensor([level]), mean, std), torch.tensor([level])
    )
    for low, high in itertools.pairwise([-1.5, -0.5, 0.0, 0.5, 1.5]):
        inside = (x > low) & (x < high)
        assert abs(float(estimate[inside].mean() - clean[inside].mean())) < 0.01


# --- the σ contract ------------------------------------------------------------------------------------------

shifts = st.floats(0.05, 20)
levels = st.floats(0, 1)


@given(shifts, levels)
def test_unshifting_undoes_shifting(shift: float, level: float) -> None:
    contract, sigma = SigmaContract(shift), torch.tensor(level, dtype=torch.float64)
    torch.testing.assert_close(contract.unshifted(contract.shifted(sigma)), sigma, atol=1e-9, rtol=0)


@given(shifts, shifts, levels)
def test_shifting_twice_is_shifting_by_the_product(first: float, second: float, level: float) -> None:
    sigma = torch.tensor(level, dtype=torch.float64)
    twice = SigmaContract(second).shifted(SigmaContract(first).shifted(sigma))
    torch.testing.assert_close(twice, SigmaContract(first * second).shifted(sigma), atol=1e-9, rtol=0)


def test_the_four_steps_of_stable_diffusion_3() -> None:
    torch.testing.assert_close(SigmaContract(3.0).grid(SD3), torch.tensor([1.0, 0.9, 0.75, 0.5, 0.0]))


MU = 1.15
SCHEDULERS = {
    "none": ({"shift": 1.0}, None, 1.0),
    "static": ({"shift": 3.0}, None, 3.0),
    "exponential": ({"use_dynamic_shifting": True, "shift": 3.0}, MU, math.exp(MU)),
    "linear": ({"use_dynamic_shifting": True, "time_shift_type": "linear"}, MU, MU),
    "other timesteps": ({"shift": 2.0, "num_train_timesteps": 500}, None, 2.0),
}


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_the_contract_agrees_with_the_installed_scheduler(kind: str) -> None:
    options, mu, shift = SCHEDULERS[kind]
    scheduler = FlowMatchEulerDiscreteScheduler(**options)
    contract = SigmaContract.from_scheduler(scheduler.config, mu=mu)
    assert contract.shift == pytest.approx(shift)
    contract.check(scheduler, mu=mu)
    for grid in (SD3, [1.0], [1.0, 0.9, 0.1, 0.01]):
        scheduler.set_timesteps(sigmas=grid, mu=mu)
        torch.testing.assert_close(contract.grid(grid), scheduler.sigmas, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["static", "exponential", "linear"])
def test_a_shift_applied_twice_or_not_at_all_is_refused(kind: str) -> None:
    options, mu, shift = SCHEDULERS[kind]
    scheduler = FlowMatchEulerDiscreteScheduler(**options)
    for wrong in (shift**2, 1.0, 1.01 * shift):
        with pytest.raises(ConfigError, match="shifts twice"):
            SigmaContract(wrong).check(scheduler, mu=mu)


def test_a_stretched_terminal_is_refused() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, shift_terminal=0.02)
    with pytest.raises(ConfigError):
        SigmaContract(3.0).check(scheduler)


def test_a_wrong_timestep_scale_is_refused() -> None:
    with pytest.raises(ConfigError, match="timesteps"):
        SigmaContract(3.0, train_timesteps=500).check(FlowMatchEulerDiscreteScheduler(shift=3.0))


@pytest.mark.parametrize(
    "config",
    [
        {"use_karras_sigmas": True},
        {"use_exponential_sigmas": True},
        {"use_beta_sigmas": True},
        {"invert_sigmas": True},
        {"use_dynamic_shifting": True},
    ],
    ids=str,
)
def test_a_scheduler_that_moves_the_grid_in_another_way_is_refused(config: dict[str, bool]) -> None:
    with pytest.raises(ConfigError):
        SigmaContract.from_scheduler(config)


@pytest.mark.parametrize("shift", [0.0, -1.0, math.nan, math.inf])
def test_a_shift_that_is_no_map_of_the_unit_interval_is_refused(shift: float) -> None:
    with pytest.raises(ConfigError):
        SigmaContract(shift)


@pytest.mark.parametrize("grid", [[], [0.0], [1.5], [-0.1], [1.0, 1.0], [0.5, 0.6], [1.0, math.nan]], ids=str)
def test_a_grid_outside_the_unit_interval_or_not_falling_is_refused(grid: list[float]) -> None:
    with pytest.raises(ConfigError):
        SigmaContract().grid(grid)


# --- EMA -----------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=40), st.floats(0, 0.999))
def test_the_average_is_its_closed_form(values: list[float], decay: float) -> None:
    # ema_k = Π d_n θ_0 + Σ_n (1 − d_n) (Π_{m>n} d_m) θ_n with d_n = min((1 + n) / (10 + n), decay)
    parameter = nn.Parameter(torch.tensor([5.0]))
    ema = Ema([parameter], decay)
    for value in values:
        with torch.no_grad():
            parameter.fill_(value)
        ema.update()
    d = [min((1 + n) / (10 + n), decay) for n in range(1, len(values) + 1)]
    expected = 5.0 * math.prod(d)
    for n, value in enumerate(values):
        expected += (1 - d[n]) * math.prod(d[n + 1 :]) * value
    assert float(ema.average[0]) == pytest.approx(expected, abs=1e-4)


def test_the_warm_up_ends_at_the_decay() -> None:
    # (1 + n) / (10 + n) reaches 0.999 at n = 8989; there the weight of the newest value is 0.001 for good.
    parameter = nn.Parameter(torch.zeros(1))
    ema = Ema([parameter], 0.999)
    for updates, weight in ((0, 9 / 11), (8987, 9 / 8998), (8989, 0.001), (10**6, 0.001)):
        ema.average[0].zero_()
        ema.updates = updates
        with torch.no_grad():
            parameter.fill_(1.0)
        ema.update()
        assert float(ema.average[0]) == pytest.approx(weight, rel=1e-4)


def test_swapping_twice_changes_no_bit() -> None:
    parameters = [nn.Parameter(normal(7, 3)), nn.Parameter(normal(5, seed=1) * 1e-30)]
    ema = Ema(parameters)
    with torch.no_grad():
        for p in parameters:
            p += normal(*p.shape, seed=2)
    ema.update()
    live, mean = [p.detach().clone() for p in parameters], [a.clone() for a in ema.average]
    ema.swap()
    for p, a, m, kept in zip(parameters, ema.average, mean, live, strict=True):
        assert torch.equal(p, m)
        assert torch.equal(a, kept)
    ema.swap()
    for p, a, m, kept in zip(parameters, ema.average, mean, live, strict=True):
        assert torch.equal(p, kept)
        assert torch.equal(a, m)


# --- the small transformer -----------------------------------------------------------------------------------


def transformer(**options: int) -> SmallTransformer:
    torch.manual_seed(0)
    shape = {"image_size": 4, "channels": 2, "patch": 2, "width": 16, "blocks": 1, "heads": 2, "classes": 3}
    return SmallTransformer(SmallTransformerConfig(**(shape | options)))


def shake(network: nn.Module) -> None:
    """Move every parameter as training would; a teacher's training never touches `source`."""
    with torch.no_grad():
        for number, (name, p) in enumerate(network.named_parameters()):
            if not name.startswith("source"):
                p += 0.2 * normal(*p.shape, seed=number)


def test_a_fresh_network_is_still() -> None:
    x = normal(3, 2, 4, 4)
    assert not transformer()(x, torch.rand(3), torch.tensor([0, 1, 3])).any()


def test_a_patch_of_pixels_comes_back_to_its_place() -> None:
    # Attention starts gated off, so that a patch of the velocity can depend on its own pixels only.
    network = transformer(image_size=6, blocks=2)
    with torch.no_grad():
        network.unpatchify.weight.normal_()
    x = normal(1, 2, 6, 6).requires_grad_()
    out = network(x, torch.tensor([0.5]), torch.tensor([1]))
    for row, column in ((0, 0), (2, 4), (4, 2)):
        (gradient,) = torch.autograd.grad(
            out[0, :, row : row + 2, column : column + 2].square().sum(), x, retain_graph=True
        )
        touched = gradient[0].abs().sum(0) > 0
        expected = torch.zeros(6, 6, dtype=torch.bool)
        expected[row : row + 2, column : column + 2] = True
        assert torch.equal(touched, expected)


def test_samples_do_not_see_each_other_and_conditions_matter() -> None:
    network = transformer()
    shake(network)
    x, sigma, labels = normal(3, 2, 4, 4), torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0, 1, 3])
    together = network(x, sigma, labels)
    for n in range(3):
        alone = network(x[n : n + 1], sigma[n : n + 1], labels[n : n + 1])
        torch.testing.assert_close(alone[0], together[n], atol=1e-5, rtol=1e-5)
    assert (network(x, sigma, labels.flip(0)) - together).abs().max() > 1e-3
    assert (network(x, sigma.flip(0), labels) - together).abs().max() > 1e-3


def test_a_copy_of_a_teacher_does_not_notice_the_source_until_it_learns_it() -> None:
    network = transformer()
    shake(network)
    x, sigma, labels = normal(3, 2, 4, 4), torch.rand(3), torch.tensor([0, 1, 2])
    told = network(x, sigma, labels, torch.tensor([0.2, 0.5, 0.8]))
    assert torch.equal(told, network(x, sigma, labels))
    told.square().mean().backward()
    assert network.source.weight.grad is not None
    assert network.source.weight.grad.any()


@pytest.mark.parametrize("options", [{"patch": 3}, {"width": 18}, {"heads": 3}], ids=str)
def test_a_shape_that_does_not_divide_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="do not divide"):
        transformer(**options)
