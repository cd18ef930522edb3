"""The law of the dynamic schedule, as statistics of its own draws and as exact properties."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from scipy import stats

from noria.core.errors import ConfigError
from noria.core.models.flow import SigmaContract, SmallTransformer
from noria.distill.adapters import SmallAdapter
from noria.distill.config import DistillConfig, ScheduleConfig, preset
from noria.distill.matching.draws import draw
from noria.distill.matching.schedules import TAU_HIGH, TAU_LOW, sample_tau, schedule_lengths, schedule_sigmas
from noria.distill.training.student_losses import StudentLosses

PLAIN, SD3 = SigmaContract(), SigmaContract(3.0)
NEARLY_ONE = float(np.nextafter(np.float32(1), np.float32(0)))


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def dynamic(**options: Any) -> ScheduleConfig:
    return ScheduleConfig(**({"kind": "dynamic_per_sample"} | options))


# --- the law -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dynamic", "dynamic_per_sample"])
def test_lengths_anchors_and_inner_levels_are_uniform(
    config: Callable[..., DistillConfig], kind: str
) -> None:
    """N ~ U{1..N_max}; anchor ~ U{0..N−1} given N; the inner σ, unshifted, ~ U(.25, .95)."""
    longest = 6
    c = config("cdm", f"schedule.kind={kind}", f"schedule.max_steps={longest}", "batch_size=2")
    lengths, anchors, inner = [], [], []
    for iteration in range(3000):
        d = draw(c, SD3, (1,), iteration, student=False)
        lengths.append(int(d.lengths[0]))
        anchors.append(int(d.anchors[0]))
        inner += SD3.unshifted(d.sigmas[0, 1 : lengths[-1]].double()).tolist()
    lengths_seen, anchors_seen = np.array(lengths), np.array(anchors)
    assert stats.chisquare(np.bincount(lengths_seen, minlength=longest + 1)[1:]).pvalue > 0.01
    for n in range(2, longest + 1):
        counts = np.bincount(anchors_seen[lengths_seen == n], minlength=n)
        assert len(counts) == n
        assert stats.chisquare(counts).pvalue > 0.001
    assert stats.kstest(inner, stats.uniform(0.25, 0.7).cdf).pvalue > 0.01


def test_shift_three_stretches_the_range_to_half_and_nearly_one() -> None:
    # U(.25, .95) before the shift of Stable Diffusion 3 spans [0.5, 0.983] after it.
    ends = torch.tensor([[0.0, NEARLY_ONE]])
    sigmas = schedule_sigmas(dynamic(), SD3, torch.tensor([3]), ends)
    torch.testing.assert_close(sigmas, torch.tensor([[1.0, 2.85 / 2.9, 0.5, 0.0]]))
    assert round(float(sigmas[0, 1]), 3) == 0.983


def test_post_shift_levels_are_true_already() -> None:
    u = uniform(4, 7)
    lengths = torch.full((4,), 8)
    after = schedule_sigmas(dynamic(space="post_shift"), SD3, lengths, u)
    torch.testing.assert_close(after, schedule_sigmas(dynamic(), PLAIN, lengths, u))
    before = schedule_sigmas(dynamic(), SD3, lengths, u)
    torch.testing.assert_close(before, SD3.shifted(after))


@given(st.integers(1, 40), st.floats(0, NEARLY_ONE, width=32), st.floats(0, NEARLY_ONE, width=32))
def test_every_uniform_gives_a_legal_length(longest: int, shared: float, own: float) -> None:
    for kind in ("dynamic", "dynamic_per_sample"):
        c = ScheduleConfig(kind=kind, max_steps=longest)
        lengths = schedule_lengths(c, torch.tensor(shared), torch.tensor([own, 0.0, NEARLY_ONE]))
        assert lengths.min() >= 1
        assert lengths.max() <= longest
        if kind == "dynamic_per_sample":
            assert lengths[1:].tolist() == [1, longest]


@given(st.integers(0, 9999), st.floats(0.2, 8), st.sampled_from(["dynamic", "dynamic_per_sample"]))
def test_a_schedule_starts_at_noise_falls_and_ends_at_data(seed: int, shift: float, kind: str) -> None:
    c = ScheduleConfig(kind=kind, max_steps=9)
    lengths = schedule_lengths(c, uniform(seed=seed), uniform(5, seed=seed + 1))
    sigmas = schedule_sigmas(c, SigmaContract(shift), lengths, uniform(5, 8, seed=seed + 2))
    assert sigmas.shape == (5, int(lengths.max()) + 1)
    assert (sigmas[:, 0] == 1).all()
    assert (sigmas.diff(dim=1) <= 0).all()
    for row, n in zip(sigmas, lengths.tolist(), strict=True):
        assert (row[:n] > 0).all()
        assert (row[n:] == 0).all()


def test_one_step_goes_straight_from_noise_to_data() -> None:
    sigmas = schedule_sigmas(dynamic(max_steps=1), SD3, torch.tensor([1, 1]), uniform(2, 0))
    assert sigmas.tolist() == [[1.0, 0.0], [1.0, 0.0]]


def test_equal_levels_may_meet() -> None:
    sigmas = schedule_sigmas(dynamic(), PLAIN, torch.tensor([3]), torch.tensor([[0.5, 0.5]]))
    assert sigmas[0, 1] == sigmas[0, 2]


def test_a_batch_shares_one_schedule_unless_each_sample_is_to_have_its_own() -> None:
    shared, own, levels = uniform(), uniform(6, seed=1), uniform(6, 11, seed=2)
    one = ScheduleConfig(kind="dynamic", max_steps=12)
    lengths = schedule_lengths(one, shared, own)
    sigmas = schedule_sigmas(one, SD3, lengths, levels)
    assert (sigmas == sigmas[0]).all()
    each = ScheduleConfig(kind="dynamic_per_sample", max_steps=12)
    lengths = schedule_lengths(each, shared, own)
    assert len(set(lengths.tolist())) > 1
    sigmas = schedule_sigmas(each, SD3, lengths, levels)
    for n, row in enumerate(sigmas):
        alone = schedule_sigmas(each, SD3, lengths[n : n + 1], levels[n : n + 1])[0]
        torch.testing.assert_close(row[: len(alone)], alone)


def test_a_fixed_schedule_is_the_grid_of_inference() -> None:
    c = ScheduleConfig(kind="fixed")
    lengths = schedule_lengths(c, uniform(), uniform(3))
    assert lengths.tolist() == [4, 4, 4]
    sigmas = schedule_sigmas(c, SD3, lengths, uniform(3, 0))
    torch.testing.assert_close(sigmas, SD3.grid([1.0, 0.75, 0.5, 0.25]).expand(3, -1))


# --- read levels ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "law"),
    [
        ("uniform", stats.uniform(0, 1)),
        ("capped", stats.uniform(0, 0.6)),
        ("above", stats.uniform(0.6, 0.4)),
        ("logit_normal", None),
    ],
)
def test_the_read_level_has_the_law_it_is_named_for(sampler: Any, law: Any) -> None:
    u = uniform(4000)
    tau = sample_tau(sampler, u, torch.full((4000,), 0.6), mean=0.3, std=0.7).double().numpy()
    assert tau.min() >= TAU_LOW - 1e-7
    assert tau.max() <= TAU_HIGH + 1e-7
    inside = tau[(tau > TAU_LOW + 1e-6) & (tau < TAU_HIGH - 1e-6)]
    if law is None:
        logit = np.log(np.array([TAU_LOW, TAU_HIGH]) / (1 - np.array([TAU_LOW, TAU_HIGH])))
        values, law, ends = np.log(inside / (1 - inside)), stats.norm(0.3, 0.7), logit
    else:
        values, ends = inside, np.array([TAU_LOW, TAU_HIGH])
    ends = law.cdf(ends)
    assert stats.kstest((law.cdf(values) - ends[0]) / (ends[1] - ends[0]), "uniform").pvalue > 0.01
    assert len(inside) > 3700


def test_logit_normal_levels_stay_finite_at_the_ends() -> None:
    tau = sample_tau("logit_normal", torch.tensor([0.0, NEARLY_ONE]), torch.ones(2))
    torch.testing.assert_close(tau, torch.tensor([TAU_LOW, TAU_HIGH]))


@pytest.mark.parametrize("sampler", ["uniform", "capped", "above", "logit_normal"])
def test_a_level_drawn_before_the_shift_is_that_draw_shifted(sampler: Any) -> None:
    contract, u, anchor = SigmaContract(3.0), uniform(500) * 0.8 + 0.1, torch.full((500,), 0.75)
    before = sample_tau(sampler, u, contract.unshifted(anchor))
    tau = sample_tau(sampler, u, anchor, before=contract)
    torch.testing.assert_close(tau, contract.shifted(before).clamp(TAU_LOW, TAU_HIGH))
    assert not torch.allclose(tau, sample_tau(sampler, u, anchor))
    if sampler == "above":
        assert tau.min() > 0.75
    torch.testing.assert_close(
        sample_tau(sampler, u, anchor, before=SigmaContract(1.0)), sample_tau(sampler, u, anchor)
    )


def test_the_space_of_levels_reaches_the_reads_and_the_critic(
    config: Callable[..., DistillConfig], network: Callable[..., SmallTransformer]
) -> None:
    adapter = SmallAdapter(network(), shift=3.0)
    taus = {}
    for space in ("pre_shift", "post_shift"):
        settings = config("cdm", f"objective.tau_space={space}")
        terms = StudentLosses(adapter, settings, lambda *_, **__: torch.zeros(()))
        taus[space] = terms.critic_tau(torch.tensor([0.5]))
    torch.testing.assert_close(taus["pre_shift"], torch.tensor([0.75]))
    torch.testing.assert_close(taus["post_shift"], torch.tensor([0.5]))
    assert DistillConfig(preset="decoupled-dmd").objective.tau_space == "pre_shift"
    assert DistillConfig().objective.tau_space == "post_shift"


# --- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"steps": ()},
        {"steps": (1.0, 0.0)},
        {"steps": (1.2, 0.5)},
        {"steps": (0.9, 0.5)},
        {"steps": (1.0, 0.5, 0.5)},
        {"low": 0.0},
        {"high": 1.5},
        {"low": 0.9, "high": 0.9},
        {"max_steps": 0},
    ],
    ids=str,
)
def test_a_schedule_outside_the_unit_interval_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        ScheduleConfig(**options)


def test_an_unknown_preset_is_refused_with_a_near_miss() -> None:
    with pytest.raises(ConfigError, match="did you mean 'cdm-renoise'"):
        preset("cdm-renoize")


def test_every_preset_is_a_legal_run() -> None:
    from noria.distill.config import PRESETS

    for name in PRESETS:
        DistillConfig(**preset(name))
