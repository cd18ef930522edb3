"""The distillation loop: draw, simulate, train the critic, and every few iterations train the student.

One straight loop (CDM, Algorithm 1). What differs between CDM, DMD2, Decoupled-DMD and their ablations is in the config
only. The `fast` and the `reference` execution compute the same numbers; the first does it with fewer network calls.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from noria.core.errors import ConfigError
from noria.core.models.flow import Ema, interpolate
from noria.core.training.parallel import Parallel
from noria.distill.adapters import Condition, FlowAdapter, Sampler, SmallAdapter, no_source_sigma
from noria.distill.config import DistillConfig, OptimizerConfig
from noria.distill.matching import objectives
from noria.distill.matching.draws import Draws, draw
from noria.distill.matching.rollout import Rollout, simulate
from noria.distill.training import monitors
from noria.distill.training.checkpoint import Work, restore, snapshot
from noria.distill.training.roles import FullRoles, LoraRoles, make_roles, whole
from noria.distill.training.student_losses import StudentLosses, StudentTerms
from noria.distill.types import Role

if TYPE_CHECKING:
    from noria.core.runs.run import Run

__all__ = ["Distiller", "PromptSource", "StudentTerms", "Work"]

ImageSource = Callable[[int, Sequence[str]], Tensor]
"""Real latents [batch, *latent] for (iteration, prompts); only consistency distillation can use them."""


class PromptSource(Protocol):
    """Prompts as a pure function of the iteration, so that a resumed run sees the same ones."""

    def batch(self, seed: int, iteration: int, batch_size: int) -> list[str]:
        """The global batch of `iteration`."""
        ...


class Distiller(Sampler):
    """Trains a few-step student of `adapter.network`.

    Args:
        adapter: adapter of the model family; its network is the frozen teacher.
        config: settings of the run.
        prompts: source of the conditioning.
        images: real latents, for consistency distillation only; without them it re-noises the student's own rollouts.
        parallel: place of this process among its peers; one process by default.
    """

    def __init__(
        self,
        adapter: FlowAdapter,
        config: DistillConfig,
        prompts: PromptSource,
        *,
        images: ImageSource | None = None,
        parallel: Parallel | None = None,
    ) -> None:
        if config.critic.source == "anchor_conditioned" and not isinstance(adapter, SmallAdapter):
            raise no_source_sigma(adapter.name)
        self.parallel = parallel or Parallel("distill")
        self.share = self.parallel.share(config.batch_size)
        self.adapter, self.config, self.prompts, self.images = adapter, config, prompts, images
        self.device = self.parallel.device
        self.roles: FullRoles | LoraRoles = make_roles(adapter, config)
        if config.gradient_checkpointing:
            _checkpoint_gradients(self.roles)
        self._place()
        self.optimizers = {
            "student": _adamw(self.roles.parameters("student"), config.student),
            "critic": _adamw(self.roles.parameters("critic"), config.critic),
        }
        self.terms = StudentLosses(adapter, config, self._velocity)
        self.ema = Ema(self.roles.parameters("student").values(), config.ema_decay)
        self.iteration = 0
        self.student_steps = 0
        self.work = Work()

    # -- the loop ---------------------------------------------------------------------------------------------------

    def train(
        self,
        run: Run | None = None,
        *,
        on_iteration: Callable[[int, dict[str, float]], None] | None = None,
        on_ladder: Callable[[Distiller], dict[str, float]] | None = None,
    ) -> None:
        """Train to `config.iterations`, from the run's last checkpoint if it has one.

        Args:
            run: run of the metrics and checkpoints; None keeps everything in memory.
            on_iteration: called after each iteration with its figures.
            on_ladder: called every `ladder_every` iterations; its figures are logged.

        Raises:
            DivergenceError: the run blew up; its last good checkpoint stays.
        """
        config = self.config
        if run is not None:
            restore(self, run)
        last_good: str | None = None
        while self.iteration < config.iterations:
            values = self.step()
            step = self.iteration
            monitors.check_health(step, values, max_std_ratio=config.max_std_ratio, last_good=last_good)
            if config.ladder_every and on_ladder and step % config.ladder_every == 0:
                values |= on_ladder(self)
            if run is not None:
                last = step == config.iterations
                if last or step % config.log_every == 0 or "ladder" in str(values.keys()):
                    run.log(step, **values)
                if last or step % config.checkpoint_every == 0:
                    tensors, state = snapshot(self)
                    if self.parallel.main:
                        last_good = str(run.save(step, tensors, state).name)
                    self.parallel.barrier()
            if on_iteration:
                on_iteration(step, values)

    def step(self) -> dict[str, float]:
        """One iteration: a rollout, a critic update and, when due, a student update on the same rollout."""
        config = self.config
        iteration = self.iteration
        # The student moves on the update_ratio-th iteration, so that the critic has always seen it first.
        due = (iteration + 1) % config.update_ratio == 0 or not config.objective.needs_critic
        draws = draw(
            config,
            self.adapter.contract,
            self.adapter.latent_shape,
            iteration,
            rank=self.parallel.rank,
            processes=self.parallel.processes,
            student=due,
            device=self.device,
        )
        prompts = self._prompts(iteration)
        condition = self.adapter.encode(prompts)
        values: dict[str, float] = {}
        rollout = self.rollout(draws, condition) if self._simulates else None
        if rollout is not None:
            values["rollout_forwards"] = float(rollout.forwards)  # those of this process
        if rollout is not None and config.objective.needs_critic:
            loss = self.critic_loss(draws, condition, rollout)
            values["loss_critic"] = float(self.parallel.mean(loss.detach()))
            values["grad_norm_critic"] = self._update("critic", loss, config.critic, iteration)
            self._merge()
            if (iteration + 1) % config.log_every == 0:
                values["critic_lag"] = self._critic_lag(values["loss_critic"], draws, condition, rollout)
        if due:
            terms = self.student_terms(draws, condition, rollout, prompts)
            values |= {
                f"loss_{name}": float(self.parallel.mean(v.detach())) for name, v in terms.losses.items()
            }
            values |= self.parallel.mean_of(terms.health) if terms.health else {}
            values["grad_norm_student"] = self._update(
                "student", terms.total, config.student, self.student_steps
            )
            self.ema.update()
            self.student_steps += 1
        self.iteration += 1
        return values

    # -- the parts --------------------------------------------------------------------------------------------------

    def rollout(self, draws: Draws, condition: Condition) -> Rollout:
        """Backward simulation of this process's share; complete where a final image is needed."""
        config, source = self.config, self.config.critic.source
        finals = (
            (config.objective.needs_critic and source == "final_x0")
            or config.objective.base == "final_x0"
            or (config.objective.off_point == "renoise" and config.objective.renoise_from == "final_x0")
            or (config.objective.consistency_weight > 0 and self.images is None)
        )
        complete = torch.full_like(draws.anchors, finals, dtype=torch.bool)
        if source == "mix" and config.objective.needs_critic:
            complete[::2] = True
        result = simulate(
            lambda x, s, c: self._velocity("student", x, s, c, count="rollout"),
            draws.noise[0],
            draws.sigmas,
            draws.lengths,
            draws.anchors,
            condition,
            complete=complete,
            ragged=config.execution == "fast",
            step_noise=draws.rollout_noise,
            calls=draws.last_call + 1 if self.parallel.sharded else 0,
        )
        result.complete = complete
        return result

    def critic_sample(self, rollout: Rollout) -> Tensor:
        """The clean images that the critic learns the law of, [batch, *latent]."""
        source = self.config.critic.source
        if source == "final_x0":
            return rollout.final
        if source == "mix":
            first = torch.arange(rollout.clean.shape[0], device=self.device) % 2 == 0
            return torch.where(
                first.reshape(-1, *[1] * (rollout.clean.ndim - 1)), rollout.final, rollout.clean
            )
        return rollout.clean

    def critic_loss(
        self, draws: Draws, condition: Condition, rollout: Rollout, role: Role = "critic"
    ) -> Tensor:
        """Flow-matching loss of `role` on the student's own samples."""
        clean, noise = self.critic_sample(rollout), draws.noise[1]
        tau = self.terms.critic_tau(draws.uniform[0])
        x = interpolate(clean, noise, tau)
        v = self._velocity(role, x, tau, condition, source=rollout.sigma)
        return objectives.flow_matching_loss(v, clean, noise)

    def student_terms(
        self, draws: Draws, condition: Condition, rollout: Rollout | None, prompts: Sequence[str] = ()
    ) -> StudentTerms:
        """All student losses of one iteration, weighted, differentiable in the student's parameters."""
        o = self.config.objective
        terms = StudentTerms({}, {})
        if rollout is not None and (o.needs_critic or o.ca_weight):
            watched = (self.iteration + 1) % self.config.log_every == 0 or self.student_steps == 0
            terms = self.terms.matching(draws, condition, rollout, watched=watched)
        if o.consistency_weight:
            real = self.images(self.iteration, prompts).to(self.device) if self.images is not None else None
            clean = real if real is not None else rollout.final if rollout is not None else None
            assert clean is not None, "without images the rollout is simulated"
            loss = self.terms.consistency(draws, condition, clean)
            terms.losses["consistency"] = o.consistency_weight * loss
        return terms

    @property
    def _simulates(self) -> bool:
        """Whether anything reads a rollout (consistency distillation on images does not)."""
        o = self.config.objective
        return o.needs_critic or bool(o.ca_weight) or self.images is None

    # -- monitors ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _critic_lag(self, loss: float, draws: Draws, condition: Condition, rollout: Rollout) -> float:
        """The critic's loss on fresh student samples over the frozen teacher's: above 1 it trails the student."""
        work = replace(self.work)
        teacher = self.critic_loss(draws, condition, rollout, role="teacher")
        self.work = work
        return loss / max(float(self.parallel.mean(teacher)), 1e-12)

    # -- updates ----------------------------------------------------------------------------------------------------

    def _update(self, role: Role, loss: Tensor, config: OptimizerConfig, step: int) -> float:
        optimizer = self.optimizers[role]
        parameters = list(self.roles.parameters(role).values())
        self.roles.network(role)
        for group in optimizer.param_groups:
            # As in the release, the first step of a warm-up has rate 0 and only fills AdamW's moments.
            group["lr"] = config.lr * min(1.0, step / config.warmup if config.warmup else 1.0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.parallel.average_gradients(parameters)
        norm = float(whole(nn.utils.clip_grad_norm_(parameters, config.clip)))
        if math.isfinite(norm):
            optimizer.step()
        return norm

    @torch.no_grad()
    def _merge(self) -> None:
        """φ ← (1 − m) φ + m θ after every critic step."""
        weight = self.config.critic.merge
        if weight:
            student: list[Tensor] = list(self.roles.parameters("student").values())
            critic: list[Tensor] = list(self.roles.parameters("critic").values())
            torch._foreach_lerp_(critic, student, weight)

    # -- networks ---------------------------------------------------------------------------------------------------

    def _place(self) -> None:
        """Put or shard the networks where this process computes.

        Raises:
            ConfigError: LoRA with FSDP2 (two adapters on one sharded base cannot be switched safely).
        """
        if isinstance(self.roles, FullRoles):
            for network in self.roles.networks.values():
                self.parallel.place(network)
            return
        if self.parallel.sharded:
            raise ConfigError(
                "LoRA and FSDP2 do not combine", where="train", mend="use train=full or plain DDP"
            )
        self.parallel.place(self.roles.base)

    def _velocity(
        self,
        role: Role,
        x: Tensor,
        sigma: Tensor,
        condition: Condition,
        *,
        source: Tensor | None = None,
        count: str | None = None,
    ) -> Tensor:
        setattr(self.work, count or role, getattr(self.work, count or role) + x.shape[0])
        if role != "teacher" and torch.is_grad_enabled():
            self.work.backward += x.shape[0]
        return self._call(role, x, sigma, condition, source=source)

    def _call(
        self, role: Role, x: Tensor, sigma: Tensor, condition: Condition, *, source: Tensor | None = None
    ) -> Tensor:
        network = self.roles.network(role)
        source = source if role == "critic" and self.config.critic.source == "anchor_conditioned" else None
        with self._autocast():
            return self.adapter.velocity(network, x, sigma, condition, source)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.config.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def _prompts(self, iteration: int) -> list[str]:
        return self.prompts.batch(self.config.seed, iteration, self.config.batch_size)[self.share]

    @contextlib.contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The student with its EMA weights, for sampling and export."""
        self.ema.swap()
        try:
            yield self.roles.network("student")
        finally:
            self.ema.swap()

    @contextlib.contextmanager
    def playing(self, role: Role) -> Iterator[Callable[[Tensor, Tensor, Condition], Tensor]]:
        """The velocity of a role, which counts as no work; the student plays with its EMA weights."""
        with self.averaged() if role == "student" else contextlib.nullcontext():
            yield functools.partial(self._call, role)


def _adamw(parameters: dict[str, nn.Parameter], config: OptimizerConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        parameters.values(),
        lr=config.lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
        eps=config.eps,
    )


def _checkpoint_gradients(roles: FullRoles | LoraRoles) -> None:
    networks = (
        [roles.base] if isinstance(roles, LoraRoles) else [roles.network("student"), roles.network("critic")]
    )
    for network in networks:
        enable = getattr(network, "enable_gradient_checkpointing", None)
        if enable is None:
            raise ConfigError(
                f"{type(network).__name__} has no gradient checkpointing",
                where="gradient_checkpointing",
                mend="switch it off for this model",
            )
        enable()
