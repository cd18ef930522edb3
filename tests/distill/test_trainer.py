"""The loop: the fast execution equals the straightforward one, and each part moves when and only when it should."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from noria.core.errors import ConfigError, DivergenceError
from noria.core.models.flow import interpolate
from noria.core.training.parallel import Parallel
from noria.distill.config import PRESETS
from noria.distill.matching.draws import draw
from noria.distill.training import monitors
from noria.distill.training.trainer import Distiller
from tests.distill.conftest import CLASSES, tiny_distiller, weights

ON_CPU = [name for name in PRESETS if name not in ("cdm-sd3", "cdm-longcat")]
"""Those two are `cdm` at another size."""


def one_iteration(
    execution: str, name: str, *overrides: str
) -> tuple[dict[str, float], dict[str, Tensor], Any]:
    """Losses, gradients and work of iteration 0, critic and student both, nothing updated."""
    distiller = tiny_distiller(name, f"execution={execution}", *overrides, shift=3.0, apart=True)
    config = distiller.config
    draws = draw(config, distiller.adapter.contract, distiller.adapter.latent_shape, 0)
    prompts = [str(n % CLASSES) for n in range(config.batch_size)]
    condition = distiller.adapter.encode(prompts)
    rollout = distiller.rollout(draws, condition)
    terms = distiller.student_terms(draws, condition, rollout, prompts)
    losses = {name: float(value.detach()) for name, value in terms.losses.items()}
    if config.objective.needs_critic:
        critic = distiller.critic_loss(draws, condition, rollout)
        losses["critic"] = float(critic.detach())
        critic.backward()  # type: ignore[no-untyped-call]
    terms.total.backward()  # type: ignore[no-untyped-call]
    gradients = {
        f"{role}.{n}": p.grad
        for role in ("student", "critic")
        for n, p in distiller.roles.parameters(role).items()  # type: ignore[arg-type]
        if p.grad is not None
    }
    return losses, gradients, distiller.work


@pytest.mark.parametrize("name", ON_CPU)
@pytest.mark.parametrize("train", ["full", "lora"])
def test_the_fast_order_has_the_losses_and_gradients_of_the_straightforward_one(
    name: str, train: str
) -> None:
    fast, fast_gradients, less = one_iteration("fast", name, f"train={train}", "batch_size=6")
    slow, slow_gradients, more = one_iteration("reference", name, f"train={train}", "batch_size=6")
    assert fast.keys() == slow.keys()
    assert fast == pytest.approx(slow, rel=2e-5, abs=1e-7)
    assert fast_gradients.keys() == slow_gradients.keys()
    size = max(float(g.abs().max()) for g in slow_gradients.values())
    assert size > 1e-4, "a test of zeros would say nothing"
    for parameter, gradient in slow_gradients.items():
        torch.testing.assert_close(
            fast_gradients[parameter], gradient, rtol=1e-3, atol=2e-5 * size, msg=parameter
        )
    assert sum(vars(less).values()) <= sum(vars(more).values())


@pytest.mark.parametrize("source", ["anchor_x0", "final_x0", "mix", "anchor_conditioned"])
@pytest.mark.parametrize("kind", ["fixed", "dynamic", "dynamic_per_sample"])
def test_the_orders_agree_whatever_the_schedule_and_the_critics_source(source: str, kind: str) -> None:
    overrides = (f"critic.source={source}", f"schedule.kind={kind}", "batch_size=5", "seed=3")
    fast, _, less = one_iteration("fast", "cdm", *overrides)
    slow, _, more = one_iteration("reference", "cdm", *overrides)
    assert fast == pytest.approx(slow, rel=2e-5)
    assert less.student == 10, "one call at the anchor, shared by CA and DM, one beside the trajectory"
    assert more.student == 15
    assert less.rollout <= more.rollout


def test_before_anything_is_learned_only_guidance_pushes() -> None:
    """Student, critic and teacher are one: R_c − R_φ = 0, so DM and CDM rest (Eq. 4), and CA does not."""
    distiller = tiny_distiller("cdm", "update_ratio=1", "critic.lr=1e-12", "critic.weight_decay=0")
    values = distiller.step()
    assert values["loss_dm"] == pytest.approx(0, abs=1e-10)
    assert values["loss_cdm"] == pytest.approx(0, abs=1e-10)
    assert values["loss_ca"] > 1e-4


@pytest.mark.parametrize("ratio", [1, 2, 3, 5])
def test_the_critic_moves_each_time_and_the_student_every_so_often(ratio: int) -> None:
    distiller = tiny_distiller("cdm", f"update_ratio={ratio}", "critic.merge=0")
    teacher = weights(distiller, "teacher")
    for iteration in range(1, 8):
        before = {role: weights(distiller, role) for role in ("student", "critic")}
        distiller.step()
        moved = {
            role: any(
                not torch.equal(old, new)
                for old, new in zip(was.values(), weights(distiller, role).values(), strict=True)
            )
            for role, was in before.items()
        }
        assert moved == {"student": iteration % ratio == 0, "critic": True}
        assert distiller.student_steps == distiller.ema.updates == iteration // ratio
    assert all(torch.equal(teacher[n], p) for n, p in weights(distiller, "teacher").items())


def test_the_merge_moves_the_critic_towards_the_student_and_no_further() -> None:
    """φ ← (1 − m) φ + m θ; the optimiser is stilled so that nothing else moves φ."""
    distiller = tiny_distiller(
        "cdm", "critic.merge=0.25", "critic.lr=1e-30", "critic.weight_decay=0", apart=True
    )
    student, critic = weights(distiller), weights(distiller, "critic")
    distiller.step()
    for name, after in weights(distiller, "critic").items():
        torch.testing.assert_close(after, 0.75 * critic[name] + 0.25 * student[name])


def test_the_learning_rate_warms_up_for_each_role_by_its_own_steps() -> None:
    distiller = tiny_distiller("cdm", "student.warmup=4", "critic.warmup=5", "student.lr=1", "critic.lr=1")
    seen = []
    for _ in range(6):
        distiller.optimizers["student"].step = lambda *_: None  # type: ignore[method-assign]
        distiller.optimizers["critic"].step = lambda *_: None  # type: ignore[method-assign]
        distiller.step()
        seen.append([distiller.optimizers[role].param_groups[0]["lr"] for role in ("student", "critic")])
    assert [s for s, _ in seen[1::2]] == [0.0, 0.25, 0.5], "the first step has rate 0, as in the release"
    assert [c for _, c in seen] == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])


def test_only_a_critic_that_is_told_reads_the_anchor() -> None:
    for source, told in (("anchor_x0", False), ("anchor_conditioned", True)):
        distiller = tiny_distiller("cdm", f"critic.source={source}", apart=True)
        draws = draw(distiller.config, distiller.adapter.contract, distiller.adapter.latent_shape, 0)
        condition = distiller.adapter.encode(["0", "1", "2", "0"])
        rollout = distiller.rollout(draws, condition)
        first = float(distiller.critic_loss(draws, condition, rollout).detach())
        rollout.sigma = rollout.sigma * 0.5
        assert (first != float(distiller.critic_loss(draws, condition, rollout).detach())) == told


def test_the_critic_learns_the_images_it_is_said_to() -> None:
    """The critic's loss is of z = (1 − τ) clean + τ ε for the clean images of its source."""
    distiller = tiny_distiller("cdm", "critic.source=mix", "schedule.kind=dynamic_per_sample", apart=True)
    draws = draw(distiller.config, distiller.adapter.contract, distiller.adapter.latent_shape, 2)
    condition = distiller.adapter.encode(["0", "1", "2", "0"])
    rollout = distiller.rollout(draws, condition)
    clean = distiller.critic_sample(rollout)
    assert torch.equal(clean[::2], rollout.final[::2])
    assert torch.equal(clean[1::2], rollout.clean[1::2])
    tau = draws.uniform[0].clamp(0.001, 0.999)
    x = interpolate(clean, draws.noise[1], tau)
    v = distiller.adapter.velocity(distiller.roles.network("critic"), x, tau, condition)
    by_hand = (v - (draws.noise[1] - clean)).square().mean()
    torch.testing.assert_close(distiller.critic_loss(draws, condition, rollout), by_hand)


def test_consistency_on_images_simulates_nothing_and_has_no_critic() -> None:
    asked: list[tuple[int, list[str]]] = []

    def images(iteration: int, prompts: Any) -> Tensor:
        asked.append((iteration, list(prompts)))
        return torch.zeros(len(prompts), 1, 4, 4)

    distiller = tiny_distiller("consistency", "update_ratio=3", images=images)
    critic = weights(distiller, "critic")
    for _ in range(2):
        assert distiller.step()["loss_consistency"] > 0
    assert distiller.student_steps == 2, "without a critic there is nothing to wait for"
    assert [iteration for iteration, _ in asked] == [0, 1]
    assert (distiller.work.rollout, distiller.work.critic) == (0, 0)
    assert all(torch.equal(critic[n], p) for n, p in weights(distiller, "critic").items())


def test_the_consistency_target_of_the_lowest_level_is_the_data() -> None:
    """Between σ = 1/n and 0 the target is the teacher's own step to the data: at σ = 0, x̂₀(x) = x."""
    distiller = tiny_distiller("consistency", "objective.consistency_steps=2", apart=True)
    draws = draw(distiller.config, distiller.adapter.contract, distiller.adapter.latent_shape, 0)
    draws.uniform[5] = 0.0
    condition = distiller.adapter.encode(["0", "1", "2", "0"])
    clean = torch.full((4, 1, 4, 4), 0.3)
    level = torch.full((4,), 0.5)
    x = interpolate(clean, draws.noise[3], level)
    with torch.no_grad():
        teacher = x - 0.5 * distiller.adapter.velocity(
            distiller.roles.network("teacher"), x, level, condition
        )
        student = x - 0.5 * distiller.adapter.velocity(
            distiller.roles.network("student"), x, level, condition
        )
    torch.testing.assert_close(
        distiller.terms.consistency(draws, condition, clean).detach(), (student - teacher).square().mean()
    )


def test_samples_are_the_averaged_students_and_leave_the_raw_one_in_place() -> None:
    distiller = tiny_distiller("cdm", "update_ratio=1", "ema_decay=0.9")
    for _ in range(4):
        distiller.step()
    raw = weights(distiller)
    noise, sigmas = torch.randn(3, 1, 4, 4), torch.tensor([1.0, 0.5, 0.0])
    averaged = distiller.sample(["0", "1", "2"], noise, sigmas)
    assert all(torch.equal(raw[n], p) for n, p in weights(distiller).items())
    with torch.no_grad():
        for parameter, mean in zip(
            distiller.roles.parameters("student").values(), distiller.ema.average, strict=True
        ):
            parameter.copy_(mean)
    network, labels = distiller.roles.network("student"), distiller.adapter.encode(["0", "1", "2"])
    x = noise
    for now, then in itertools.pairwise(sigmas):
        x = x + (then - now) * distiller.adapter.velocity(network, x, now.expand(3), labels).detach()
    torch.testing.assert_close(averaged, x)


def test_guidance_of_the_teacher_is_classifier_free_guidance() -> None:
    distiller = tiny_distiller("cdm")
    noise, sigmas = torch.randn(2, 1, 4, 4), torch.tensor([1.0, 0.0])
    got = distiller.sample(["0", "1"], noise, sigmas, role="teacher", guidance=3.0)
    network, one = distiller.adapter.network, torch.ones(2)
    with torch.no_grad():
        c = distiller.adapter.velocity(network, noise, one, distiller.adapter.encode(["0", "1"]))
        u = distiller.adapter.velocity(network, noise, one, distiller.adapter.null(2))
    torch.testing.assert_close(got, noise - (u + 3 * (c - u)))


# -- health -----------------------------------------------------------------------------------------------------------


def test_what_the_monitors_say_is_in_the_step() -> None:
    distiller = tiny_distiller("cdm", "update_ratio=1", apart=True)
    values = distiller.step()
    assert {"cos_ca_dm", "critic_lag", "std_ratio", "grad_norm_student", "grad_norm_critic"} <= values.keys()
    assert -1 <= values["cos_ca_dm"] <= 1
    assert any(name.startswith("push_bin") for name in values)
    assert all(math.isfinite(v) for v in values.values())


def test_the_critics_lag_is_one_while_it_is_the_teacher() -> None:
    distiller = tiny_distiller("cdm", "critic.lr=1e-30", "critic.merge=0", "critic.weight_decay=0")
    assert distiller.step()["critic_lag"] == pytest.approx(1.0)


@pytest.mark.parametrize("direction", [torch.tensor([[1.0, 0]]), torch.tensor([[3.0, 3.0]])])
def test_the_cosine_is_of_directions_not_of_lengths(direction: Tensor) -> None:
    a = torch.tensor([[1.0, 0.0]])
    expected = float(direction[0, 0] / direction.norm())
    assert monitors.cosine(a, direction) == pytest.approx(expected)
    assert monitors.cosine(a * 7, direction / 9) == pytest.approx(expected)
    assert monitors.cosine(a, torch.zeros(1, 2)) is None


def test_pushes_are_told_by_their_noise_level() -> None:
    direction = torch.stack([torch.full((4,), v) for v in (1.0, 3.0, 5.0, 8.0)])
    got = monitors.binned_norms(
        direction, torch.tensor([[1.0], [1.0], [1.0], [2.0]]), torch.tensor([0.1, 0.2, 0.25, 1])
    )
    assert got == pytest.approx({"push_bin0": 2.0, "push_bin1": 5.0, "push_bin3": 4.0})


def test_a_step_of_nan_changes_no_weight_and_ends_the_run_naming_the_last_good_checkpoint(
    tmp_path: Any,
) -> None:
    from noria.core.runs.run import Run

    distiller = tiny_distiller("cdm", "iterations=9", "checkpoint_every=2", "update_ratio=1")
    honest, poisoned = distiller.adapter.velocity, 5

    def velocity(*args: Any, **kwargs: Any) -> Tensor:
        out = honest(*args, **kwargs)
        return out * math.nan if distiller.iteration == poisoned else out

    distiller.adapter.velocity = velocity  # type: ignore[method-assign]
    before: dict[str, Tensor] = {}

    def keep(step: int, _: dict[str, float]) -> None:
        before.update(weights(distiller))

    with Run.open(tmp_path / "run", config={"a": 1}) as run, pytest.raises(DivergenceError) as stopped:
        distiller.train(run, on_iteration=keep)
    assert "loss_critic is nan" in str(stopped.value)
    assert "iteration 6" in str(stopped.value)
    assert "the last good checkpoint is step-" in str(stopped.value)
    assert run.latest().step == 4  # type: ignore[union-attr]
    assert all(torch.equal(before[n], p) for n, p in weights(distiller).items())


def test_a_student_that_blows_up_or_collapses_is_stopped() -> None:
    for ratio in (30.0, 1 / 30):
        with pytest.raises(DivergenceError, match="spread is"):
            monitors.check_health(7, {"std_ratio": ratio}, max_std_ratio=20, last_good=None)
    monitors.check_health(7, {"std_ratio": 3.0, "loss_dm": 1.0}, max_std_ratio=20, last_good=None)
    with pytest.raises(DivergenceError, match="no checkpoint was written yet"):
        monitors.check_health(7, {"grad_norm_critic": math.inf}, max_std_ratio=20, last_good=None)


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    distiller, three = tiny_distiller("cdm"), Parallel("distill")
    three.processes = 3
    with pytest.raises(ConfigError, match="batch_size 4 does not divide over 3 processes"):
        Distiller(distiller.adapter, distiller.config, distiller.prompts, parallel=three)


def test_distribution_matching_brings_a_student_back_to_the_teachers_distribution() -> None:
    """A student far from its teacher, taught by DM alone. Only the distribution is
    compared, class by class: which noise becomes which image is free.
    """
    distiller = tiny_distiller(
        "cdm-no-ca",
        "batch_size=48",
        "update_ratio=3",
        "student.lr=2e-3",
        "critic.lr=6e-3",
        "schedule.kind=fixed",
        "schedule.steps=[1.0,0.5]",
        "critic.source=anchor_conditioned",
        "objective.cdm_weight=0",
        "ema_decay=0.9",
    )
    prompts = [str(n % CLASSES) for n in range(300)]
    noise = torch.randn(300, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    wanted = distiller.sample(prompts, noise, torch.linspace(1, 0, 65), role="teacher")

    def bias() -> float:
        got = distiller.sample(prompts, noise, torch.tensor([1.0, 0.5, 0.0]))
        gaps = [
            (got[c::CLASSES].mean(0) - wanted[c::CLASSES].mean(0)).square().mean() for c in range(CLASSES)
        ]
        return float(torch.stack(gaps).mean())

    with torch.no_grad():
        for name, parameter in distiller.roles.parameters("student").items():
            if "bias" in name:
                parameter += 0.3
    distiller.ema.average[:] = [p.detach().clone() for p in distiller.roles.parameters("student").values()]
    start = bias()
    for _ in range(300):
        distiller.step()
    assert bias() < 0.3 * start, (start, bias())
