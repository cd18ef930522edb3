"""The distillation loop: draw, simulate, train the critic, and every few iterations train the student.

One straight loop (CDM, Algorithm 1). What differs between CDM, DMD2, Decoupled-DMD and their ablations is in the config
only. The `fast` and the `reference` execution compute the same numbers; the first does it with fewer network calls.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from noria.core.errors import CheckpointError, ConfigError
from noria.core.flow import Ema, clean_estimate, euler, interpolate
from noria.distill import monitors, objectives
from noria.distill.adapters import Condition, FlowAdapter, concat
from noria.distill.config import DistillConfig, OptimizerConfig
from noria.distill.draws import Draws, draw
from noria.distill.parallel import Parallel
from noria.distill.roles import FullRoles, LoraRoles, Role, like, load_parameters, make_roles, whole
from noria.distill.rollout import Rollout, simulate
from noria.distill.schedules import TAU_HIGH, TAU_LOW, sample_tau

if TYPE_CHECKING:
    from noria.core.runs import Run

__all__ = ["Distiller", "PromptSource", "StudentTerms", "Work"]

CA, DM, CDM, OFF = 2, 3, 4, 5
"""Noise streams of the student's terms in :class:`~noria.distill.draws.Draws`; 0 is the rollout's, 1 the critic's."""

TRAINED: tuple[Role, ...] = ("student", "critic")

ImageSource = Callable[[int, Sequence[str]], Tensor]
"""Real latents [batch, *latent] for (iteration, prompts); only consistency distillation can use them."""


class PromptSource(Protocol):
    """Prompts as a pure function of the iteration, so that a resumed run sees the same ones."""

    def batch(self, seed: int, iteration: int, batch_size: int) -> list[str]:
        """The global batch of `iteration`."""
        ...


@dataclass
class Work:
    """Network evaluations, counted a sample, since the start."""

    rollout: int = 0
    student: int = 0
    critic: int = 0
    teacher: int = 0


@dataclass
class StudentTerms:
    """Losses of one student update and what the monitors read."""

    losses: dict[str, Tensor]
    health: dict[str, float]

    @property
    def total(self) -> Tensor:
        """The weighted sum that is differentiated."""
        return torch.stack(list(self.losses.values())).sum()


class Distiller:
    """Trains a few-step student of `adapter.network`.

    Args:
        adapter: how to call the model family; its network is the frozen teacher.
        config: the run.
        prompts: where conditioning comes from.
        images: real latents, for consistency distillation only; without them it re-noises the student's own rollouts.
        parallel: the distributed setting; one process by default.
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
        self.parallel = parallel or Parallel()
        if config.batch_size % self.parallel.processes:
            raise ConfigError(
                f"batch_size {config.batch_size} does not divide over {self.parallel.processes} processes",
                where="batch_size",
                mend=f"use a multiple of {self.parallel.processes}",
            )
        self.adapter, self.config, self.prompts, self.images = adapter, config, prompts, images
        self.device = self.parallel.device
        self.roles: FullRoles | LoraRoles = make_roles(adapter, config)
        if config.gradient_checkpointing:
            _checkpoint_gradients(self.roles)
        self.parallel.place(self.roles)
        self.optimizers = {
            "student": _adamw(self.roles.parameters("student"), config.student),
            "critic": _adamw(self.roles.parameters("critic"), config.critic),
        }
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
        """Train to `config.iterations`, going on from the run's last checkpoint if it has one.

        Args:
            run: where metrics and checkpoints go; None keeps everything in memory.
            on_iteration: called after each iteration with its figures.
            on_ladder: called every `ladder_every` iterations; its figures are logged.

        Raises:
            DivergenceError: the run blew up; its last good checkpoint stays.
        """
        config = self.config
        if run is not None:
            self.resume(run)
        last_good: str | None = None
        while self.iteration < config.iterations:
            values = self.step()
            step = self.iteration
            monitors.check_health(step, values, max_std_ratio=config.max_std_ratio, last_good=last_good)
            if config.ladder_every and on_ladder and step % config.ladder_every == 0:
                values |= on_ladder(self)
            if run is not None:
                if (
                    step % config.log_every == 0
                    or step == config.iterations
                    or "ladder" in str(values.keys())
                ):
                    run.log(step, **values)
                if step % config.checkpoint_every == 0 or step == config.iterations:
                    tensors, state = self.snapshot()
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
            values["rollout_forwards"] = float(rollout.forwards)  # of this process
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
        tau = draws.uniform[0].clamp(TAU_LOW, TAU_HIGH)
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
            terms = self._matching_terms(draws, condition, rollout)
        if o.consistency_weight:
            real = self.images(self.iteration, prompts).to(self.device) if self.images is not None else None
            clean = real if real is not None else rollout.final if rollout is not None else None
            assert clean is not None, "without images the rollout is simulated"
            terms.losses["consistency"] = o.consistency_weight * self._consistency(draws, condition, clean)
        return terms

    @property
    def _simulates(self) -> bool:
        """Whether anything reads a rollout (consistency distillation on images does not)."""
        o = self.config.objective
        return o.needs_critic or bool(o.ca_weight) or self.images is None

    def _matching_terms(self, draws: Draws, condition: Condition, rollout: Rollout) -> StudentTerms:
        o = self.config.objective
        anchored = bool(o.ca_weight or o.dm_weight)
        x_off, sigma_off = self._off_point(draws, rollout)

        # 1. the student's clean estimates at the anchor and at the off-trajectory point
        if self.config.execution == "fast":
            points = [(rollout.x, rollout.sigma)] * anchored + [(x_off, sigma_off)] * bool(o.cdm_weight)
            estimates = self._estimates("student", points, condition)
        else:
            points = [(rollout.x, rollout.sigma)] * (bool(o.ca_weight) + bool(o.dm_weight))
            points += [(x_off, sigma_off)] * bool(o.cdm_weight)
            estimates = [self._estimates("student", [p], condition)[0] for p in points]
        at_anchor = estimates[0] if anchored else None
        separate = self.config.execution == "reference" and o.ca_weight and o.dm_weight
        at_anchor_dm = estimates[1] if separate else at_anchor
        off = estimates[-1] if o.cdm_weight else None

        # 2. where the teachers read
        reads: list[tuple[str, Role, Tensor, Tensor, bool]] = []  # name, role, z, tau, conditional
        levels: dict[str, Tensor] = {}
        if at_anchor is not None and o.ca_weight:
            tau = self._tau(o.ca_tau, draws.uniform[1], rollout.sigma)
            z = objectives.renoise(at_anchor, draws.noise[CA], tau)
            reads += [("ca_real", "teacher", z, tau, True), ("ca_null", "teacher", z, tau, False)]
        if at_anchor_dm is not None and o.dm_weight:
            tau = self._tau(o.dm_tau, draws.uniform[2], rollout.sigma)
            z = objectives.renoise(at_anchor_dm, draws.noise[DM], tau)
            reads += [("dm_real", "teacher", z, tau, True), ("dm_fake", "critic", z, tau, True)]
            if o.dm_guidance != 1:
                reads.append(("dm_null", "teacher", z, tau, False))
            levels["dm_fake"] = rollout.sigma
        if off is not None:
            tau = self._tau(o.cdm_tau, draws.uniform[3], sigma_off)
            if o.read == "share_student":
                z, tau = x_off, sigma_off
            else:
                base = {"student": off, "anchor_x0": rollout.clean, "final_x0": rollout.final}[o.base]
                tau = sigma_off if o.read == "shared_sigma" else tau
                z = objectives.renoise(base, draws.noise[CDM], tau)
            reads += [("cdm_real", "teacher", z, tau, True), ("cdm_fake", "critic", z, tau, True)]
            levels["cdm_fake"] = sigma_off
        got = self._reads(reads, condition, levels)

        # 3. the pushes
        losses: dict[str, Tensor] = {}
        health: dict[str, float] = {}
        directions: dict[str, Tensor] = {}
        if at_anchor is not None and o.ca_weight:
            directions["ca"] = objectives.ca_direction(
                got["ca_real"], got["ca_null"], o.ca_scale, convention=o.ca_convention
            )
            losses["ca"] = o.ca_weight * objectives.push(
                at_anchor, directions["ca"], got["ca_real"], o.min_norm
            )
        if at_anchor_dm is not None and o.dm_weight:
            directions["dm"] = objectives.dm_direction(got["dm_real"], got["dm_fake"])
            if o.dm_guidance != 1:
                directions["dm"] = directions["dm"] + objectives.ca_direction(
                    got["dm_real"], got["dm_null"], o.dm_guidance, convention="guidance"
                )
            losses["dm"] = o.dm_weight * objectives.push(
                at_anchor_dm, directions["dm"], got["dm_real"], o.min_norm
            )
        if off is not None:
            directions["cdm"] = objectives.dm_direction(got["cdm_real"], got["cdm_fake"])
            losses["cdm"] = o.cdm_weight * objectives.push(
                off, directions["cdm"], got["cdm_real"], o.min_norm
            )
        if (self.iteration + 1) % self.config.log_every == 0 or self.student_steps == 0:
            health = self._health(directions, got, at_anchor, off, rollout.sigma)
        return StudentTerms(losses, health)

    def _off_point(self, draws: Draws, rollout: Rollout) -> tuple[Tensor, Tensor]:
        o = self.config.objective
        sigma = draws.uniform[4].clamp(TAU_LOW, TAU_HIGH)
        if o.off_point == "trajectory":
            return rollout.x, rollout.sigma
        if o.off_point == "renoise":
            clean = rollout.final if o.renoise_from == "final_x0" else rollout.clean
            return interpolate(clean, draws.noise[OFF], sigma), sigma
        return objectives.extrapolate(rollout.x, rollout.velocity, rollout.sigma, sigma), sigma

    def _tau(self, sampler: Any, uniform: Tensor, sigma: Tensor) -> Tensor:
        o = self.config.objective
        return sample_tau(sampler, uniform, sigma, mean=o.logit_mean, std=o.logit_std)

    def _estimates(
        self, role: Role, points: list[tuple[Tensor, Tensor]], condition: Condition
    ) -> list[Tensor]:
        """Clean estimates at several points of the same batch, in one call."""
        x = torch.cat([p[0] for p in points])
        sigma = torch.cat([p[1] for p in points])
        v = self._velocity(role, x, sigma, concat([condition] * len(points)))
        return list(clean_estimate(x, v, sigma).chunk(len(points)))

    @torch.no_grad()
    def _reads(
        self,
        reads: list[tuple[str, Role, Tensor, Tensor, bool]],
        condition: Condition,
        levels: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        """Clean reads by name; in `fast` execution all of one role in a single call."""
        got: dict[str, Tensor] = {}
        null = self.adapter.null(reads[0][2].shape[0]) if any(not r[4] for r in reads) else None
        roles: tuple[Role, ...] = ("teacher", "critic")
        for role in roles:
            mine = [r for r in reads if r[1] == role]
            groups = ([mine] if mine else []) if self.config.execution == "fast" else [[r] for r in mine]
            for group in groups:
                z, tau = torch.cat([r[2] for r in group]).detach(), torch.cat([r[3] for r in group])
                conditions = concat([condition if r[4] or null is None else null for r in group])
                source = torch.cat([levels.get(r[0], r[3]) for r in group])
                v = self._velocity(role, z, tau, conditions, source=source)
                clean = clean_estimate(z, v, tau).chunk(len(group))
                got |= {r[0]: c for r, c in zip(group, clean, strict=True)}
        return got

    def _consistency(self, draws: Draws, condition: Condition, clean: Tensor) -> Tensor:
        """Discrete consistency distillation: neighbours on one teacher ODE step agree."""
        o = self.config.objective
        level = (draws.uniform[5] * o.consistency_steps).long().clamp(max=o.consistency_steps - 1)
        contract = self.adapter.contract
        sigma = contract.shifted((level + 1) / o.consistency_steps)
        below = contract.shifted(level / o.consistency_steps)
        x = interpolate(clean, draws.noise[DM], sigma)
        with torch.no_grad():
            v = self._velocity("teacher", x, sigma, condition)
            if o.consistency_guidance != 1:
                null = self._velocity("teacher", x, sigma, self.adapter.null(x.shape[0]))
                v = null + o.consistency_guidance * (v - null)
            x_below = objectives.extrapolate(x, v, sigma, below)
            target = clean_estimate(x_below, self._velocity("student", x_below, below, condition), below)
        return objectives.consistency_loss(self._estimates("student", [(x, sigma)], condition)[0], target)

    # -- monitors ---------------------------------------------------------------------------------------------------

    def _health(
        self,
        directions: dict[str, Tensor],
        got: dict[str, Tensor],
        at_anchor: Tensor | None,
        off: Tensor | None,
        sigma: Tensor,
    ) -> dict[str, float]:
        health: dict[str, float] = {}
        if "ca" in directions and "dm" in directions:
            value = monitors.cosine(directions["ca"], directions["dm"])
            if value is not None:
                health["cos_ca_dm"] = value
        estimate = at_anchor if at_anchor is not None else off
        reference = got.get("dm_real", got.get("ca_real", got.get("cdm_real")))
        if estimate is not None and reference is not None:
            health["std_ratio"] = monitors.std_ratio(estimate.detach(), reference)
            name = "dm" if "dm" in directions else next(iter(directions))
            scale = objectives.push_scale(estimate, reference, self.config.objective.min_norm)
            health |= monitors.binned_norms(directions[name], scale, sigma)
        return health

    @torch.no_grad()
    def _critic_lag(self, loss: float, draws: Draws, condition: Condition, rollout: Rollout) -> float:
        """The critic's loss on fresh student samples over the frozen teacher's: above 1 it trails the student."""
        teacher = self.critic_loss(draws, condition, rollout, role="teacher")
        return loss / max(float(self.parallel.mean(teacher)), 1e-12)

    # -- updates ----------------------------------------------------------------------------------------------------

    def _update(self, role: Role, loss: Tensor, config: OptimizerConfig, step: int) -> float:
        optimizer = self.optimizers[role]
        parameters = list(self.roles.parameters(role).values())
        self.roles.network(role)
        for group in optimizer.param_groups:
            group["lr"] = config.lr * min(1.0, (step + 1) / max(config.warmup, 1))
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
        network = self.roles.network(role)
        told = source if role == "critic" and self.config.critic.source == "anchor_conditioned" else None
        with self._autocast():
            return self.adapter.velocity(network, x, sigma, condition, told)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.config.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def _prompts(self, iteration: int) -> list[str]:
        share = self.config.batch_size // self.parallel.processes
        everyone = self.prompts.batch(self.config.seed, iteration, self.config.batch_size)
        return everyone[self.parallel.rank * share : (self.parallel.rank + 1) * share]

    @contextlib.contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The student with its EMA weights, for sampling and export."""
        self.ema.swap()
        try:
            yield self.roles.network("student")
        finally:
            self.ema.swap()

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        noise: Tensor,
        sigmas: Tensor,
        *,
        role: Role = "student",
        guidance: float = 1.0,
    ) -> Tensor:
        """Latents by Euler steps on true σ `sigmas` [steps + 1]; the student (EMA) by default, or the teacher."""
        condition = self.adapter.encode(prompts)
        null = self.adapter.null(len(prompts)) if guidance != 1 else None

        def velocity(x: Tensor, sigma: Tensor) -> Tensor:
            v = self._velocity(role, x, sigma, condition)
            if null is None:
                return v
            free = self._velocity(role, x, sigma, null)
            return free + guidance * (v - free)

        with self.averaged() if role == "student" else contextlib.nullcontext():
            return euler(velocity, noise.to(self.device), sigmas)

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything a resumed run needs: weights, EMA, both optimisers, counters (a collective call when sharded)."""
        tensors: dict[str, Tensor] = {}
        for role in TRAINED:
            parameters = self.roles.parameters(role)
            state = self.optimizers[role].state
            for name, p in parameters.items():
                tensors[f"{role}.{name}"] = whole(p)
                for slot, value in state.get(p, {}).items():
                    tensors[f"optimizer.{role}.{name}.{slot}"] = whole(value)
        for name, mean in zip(self.roles.parameters("student"), self.ema.average, strict=True):
            tensors[f"ema.{name}"] = whole(mean)
        return tensors, {
            "iteration": self.iteration,
            "student_steps": self.student_steps,
            "ema_updates": self.ema.updates,
            "work": vars(self.work),
        }

    def resume(self, run: Run) -> bool:
        """Go on from the run's last checkpoint.

        Returns:
            Whether there was one.

        Raises:
            CheckpointError: it is of another model.
        """
        checkpoint = run.latest()
        if checkpoint is None:
            return False
        tensors, where = checkpoint.tensors, f"checkpoint {checkpoint.step}"
        for role in TRAINED:
            parameters = self.roles.parameters(role)
            mine = {n.removeprefix(f"{role}."): t for n, t in tensors.items() if n.startswith(f"{role}.")}
            if extra := sorted(set(mine) - set(parameters)):
                raise CheckpointError(
                    f"{extra[0]} is not a parameter of this model",
                    where=where,
                    mend="the checkpoint is of another model or training mode; use another output folder",
                )
            load_parameters(parameters, mine, where=where)
            optimizer = self.optimizers[role]
            for name, p in parameters.items():
                prefix = f"optimizer.{role}.{name}."
                slots = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
                slots = {s: t for s, t in slots.items() if s in ("step", "exp_avg", "exp_avg_sq")}
                if slots:
                    optimizer.state[p] = {
                        s: t.clone() if s == "step" else like(p, t).clone() for s, t in slots.items()
                    }
        for name, mean in zip(self.roles.parameters("student"), self.ema.average, strict=True):
            mean.copy_(like(mean, tensors[f"ema.{name}"]))
        self.iteration = int(checkpoint.state["iteration"])
        self.student_steps = int(checkpoint.state["student_steps"])
        self.ema.updates = int(checkpoint.state["ema_updates"])
        self.work = Work(**checkpoint.state["work"])
        return True


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
