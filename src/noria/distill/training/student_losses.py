"""The student's losses of one iteration: where each term's estimate is made, where the teachers read, what is pushed.

L = push(x̂, α (R_c − R_∅)) + push(x̂, R_c − R_φ) + push(x̂′, R_c − R_φ): CA and DM at the rollout's anchor x_σ, CDM
beside the trajectory at x′ = x_σ + (σ′ − σ) v̄ (CDM, arXiv 2605.06376, Eq. 3-8). Every choice among published variants
is a field of :class:`~noria.distill.config.ObjectiveConfig`. `fast` execution makes one student call for all estimates
and one call a teacher for all reads; `reference` makes one for each, in the straightforward order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from noria.core.models.flow import clean_estimate, interpolate
from noria.distill.adapters import Condition, FlowAdapter, concat
from noria.distill.config import DistillConfig
from noria.distill.matching import objectives
from noria.distill.matching.draws import Draws
from noria.distill.matching.rollout import Rollout
from noria.distill.matching.schedules import TAU_HIGH, TAU_LOW, sample_tau
from noria.distill.training import monitors
from noria.distill.types import Role, TauSampler

CA, DM, CDM, OFF = 2, 3, 4, 5
"""Noise streams of the terms in :class:`~noria.distill.matching.draws.Draws`; 0 is the rollout's, 1 the critic's."""

CPU_ROWS = 192
"""On a CPU a call of more samples than about this is slower a sample, even for a small network."""


class Velocity(Protocol):
    """The call of a role's network."""

    def __call__(
        self, role: Role, x: Tensor, sigma: Tensor, condition: Condition, *, source: Tensor | None = None
    ) -> Tensor:
        """Velocity of `role` at `x` and true `sigma`; `source` is the σ its clean image was estimated at."""
        ...


@dataclass(frozen=True, eq=False)
class Point:
    """A point at which the student estimates: x [batch, *latent] and true σ [batch]."""

    x: Tensor
    sigma: Tensor


@dataclass(frozen=True, eq=False)
class Read:
    """One read of a frozen network at a noised estimate.

    Attributes:
        name: name of the clean read.
        role: network that reads.
        z, tau: point and noise level of the read.
        conditional: whether the prompt is given.
        source: σ at which the clean image under `z` was estimated, for a critic that takes it.
    """

    name: str
    role: Role
    z: Tensor
    tau: Tensor
    conditional: bool = True
    source: Tensor | None = None


@dataclass
class StudentTerms:
    """Losses of one student update and what the monitors read."""

    losses: dict[str, Tensor]
    health: dict[str, float]

    @property
    def total(self) -> Tensor:
        """The weighted sum that is differentiated."""
        return torch.stack(list(self.losses.values())).sum()


class StudentLosses:
    """The student's losses of one model family under one config.

    Args:
        adapter: adapter of the family.
        config: settings of the run; `objective` and `execution` decide.
        velocity: function that calls a role's network.
    """

    def __init__(self, adapter: FlowAdapter, config: DistillConfig, velocity: Velocity) -> None:
        self.adapter, self.objective, self.velocity = adapter, config.objective, velocity
        self.fast = config.execution == "fast"

    def _batches_a_call(self, x: Tensor) -> int:
        """Number of batches like `x` that one call takes: all on an accelerator, on a CPU what its caches hold."""
        if not self.fast:
            return 1
        return max(1, CPU_ROWS // len(x)) if x.device.type == "cpu" else 64

    def matching(
        self, draws: Draws, condition: Condition, rollout: Rollout, *, watched: bool = False
    ) -> StudentTerms:
        """CA, DM and CDM, each as the config weighs it; `watched` adds what the monitors read."""
        o = self.objective
        here, beside = Point(rollout.x, rollout.sigma), self._off_point(draws, rollout)
        places = {"ca": (o.ca_weight, here), "dm": (o.dm_weight, here), "cdm": (o.cdm_weight, beside)}
        places = {name: place for name, place in places.items() if place[0]}

        estimates = self._estimates({name: point for name, (_, point) in places.items()}, condition)
        clean = self._read(self._reads(estimates, draws, rollout, beside), condition)
        directions = {name: self._direction(name, clean) for name in places}
        losses = {
            name: weight
            * objectives.push(estimates[name], directions[name], self._reference(name, clean), o.min_norm)
            for name, (weight, _) in places.items()
        }
        health = self._health(directions, clean, estimates, rollout.sigma) if watched else {}
        return StudentTerms(losses, health)

    def _off_point(self, draws: Draws, rollout: Rollout) -> Point:
        """The point of CDM's estimate."""
        o = self.objective
        sigma = draws.uniform[4].clamp(TAU_LOW, TAU_HIGH)
        if o.off_point == "trajectory":
            return Point(rollout.x, rollout.sigma)
        if o.off_point == "renoise":
            clean = rollout.final if o.renoise_from == "final_x0" else rollout.clean
            return Point(interpolate(clean, draws.noise[OFF], sigma), sigma)
        return Point(objectives.extrapolate(rollout.x, rollout.velocity, rollout.sigma, sigma), sigma)

    def _estimates(self, points: dict[str, Point], condition: Condition) -> dict[str, Tensor]:
        """The student's clean estimates by term; in `fast` execution terms at one point share one, in few calls."""
        if not self.fast:
            return {name: self._student([point], condition)[0] for name, point in points.items()}
        distinct = list({id(point): point for point in points.values()}.values())
        size = self._batches_a_call(distinct[0].x)
        calls = [distinct[n : n + size] for n in range(0, len(distinct), size)]
        clean = [estimate for call in calls for estimate in self._student(call, condition)]
        estimates = dict(zip(map(id, distinct), clean, strict=True))
        return {name: estimates[id(point)] for name, point in points.items()}

    def _student(self, points: list[Point], condition: Condition) -> list[Tensor]:
        x, sigma = torch.cat([p.x for p in points]), torch.cat([p.sigma for p in points])
        v = self.velocity("student", x, sigma, concat([condition] * len(points)))
        return list(clean_estimate(x, v, sigma).chunk(len(points)))

    def _reads(
        self, estimates: dict[str, Tensor], draws: Draws, rollout: Rollout, beside: Point
    ) -> list[Read]:
        """Points at which teacher and critic read, for every term."""
        o = self.objective
        reads: list[Read] = []
        if "ca" in estimates:
            tau = self._tau(o.ca_tau, draws.uniform[1], rollout.sigma)
            z = objectives.renoise(estimates["ca"], draws.noise[CA], tau)
            reads += [
                Read("ca_real", "teacher", z, tau),
                Read("ca_null", "teacher", z, tau, conditional=False),
            ]
        if "dm" in estimates:
            tau = self._tau(o.dm_tau, draws.uniform[2], rollout.sigma)
            z = objectives.renoise(estimates["dm"], draws.noise[DM], tau)
            reads += [
                Read("dm_real", "teacher", z, tau),
                Read("dm_fake", "critic", z, tau, source=rollout.sigma),
            ]
            if o.dm_guidance != 1:
                reads.append(Read("dm_null", "teacher", z, tau, conditional=False))
        if "cdm" in estimates:
            if o.read == "share_student":
                z, tau = beside.x, beside.sigma
            else:
                bases = {"student": estimates["cdm"], "anchor_x0": rollout.clean, "final_x0": rollout.final}
                tau = self._tau(o.cdm_tau, draws.uniform[3], beside.sigma)
                tau = beside.sigma if o.read == "shared_sigma" else tau
                z = objectives.renoise(bases[o.base], draws.noise[CDM], tau)
            reads += [
                Read("cdm_real", "teacher", z, tau),
                Read("cdm_fake", "critic", z, tau, source=beside.sigma),
            ]
        return reads

    def critic_tau(self, uniform: Tensor) -> Tensor:
        """Level at which the critic learns: uniform, in the space of the reads."""
        return self._tau("uniform", uniform, uniform)

    def _tau(self, sampler: TauSampler, uniform: Tensor, sigma: Tensor) -> Tensor:
        o = self.objective
        before = self.adapter.contract if o.tau_space == "pre_shift" else None
        return sample_tau(sampler, uniform, sigma, mean=o.logit_mean, std=o.logit_std, before=before)

    @torch.no_grad()
    def _read(self, reads: list[Read], condition: Condition) -> dict[str, Tensor]:
        """Clean reads by name; in `fast` execution those of one role go through it together."""
        clean: dict[str, Tensor] = {}
        null = condition if all(r.conditional for r in reads) else self.adapter.null(len(reads[0].tau))
        roles: tuple[Role, ...] = ("teacher", "critic")
        for role in roles:
            mine = [r for r in reads if r.role == role]
            size = self._batches_a_call(reads[0].z)
            for group in (mine[n : n + size] for n in range(0, len(mine), size)):
                z, tau = torch.cat([r.z for r in group]).detach(), torch.cat([r.tau for r in group])
                conditions = concat([condition if r.conditional else null for r in group])
                source = torch.cat([r.tau if r.source is None else r.source for r in group])
                v = self.velocity(role, z, tau, conditions, source=source)
                estimates = clean_estimate(z, v, tau).chunk(len(group))
                clean |= {r.name: c for r, c in zip(group, estimates, strict=True)}
        return clean

    def _direction(self, name: str, clean: dict[str, Tensor]) -> Tensor:
        """Δ of a term out of its reads."""
        o = self.objective
        real = clean[f"{name}_real"]
        if name == "ca":
            return objectives.ca_direction(real, clean["ca_null"], o.ca_scale, convention=o.ca_convention)
        return objectives.dm_direction(self._reference(name, clean), clean[f"{name}_fake"])

    def _reference(self, name: str, clean: dict[str, Tensor]) -> Tensor:
        """The teacher's read that a term is measured against: guided in DM where DM is (DMD2), else unguided."""
        o = self.objective
        real = clean[f"{name}_real"]
        if name == "dm" and o.dm_guidance != 1:
            extra = objectives.ca_direction(real, clean["dm_null"], o.dm_guidance, convention="guidance")
            return real + extra
        return real

    def consistency(self, draws: Draws, condition: Condition, clean: Tensor) -> Tensor:
        """Discrete consistency distillation: neighbours on one teacher ODE step agree."""
        o = self.objective
        level = (draws.uniform[5] * o.consistency_steps).long().clamp(max=o.consistency_steps - 1)
        contract = self.adapter.contract
        sigma = contract.shifted((level + 1) / o.consistency_steps)
        below = contract.shifted(level / o.consistency_steps)
        x = interpolate(clean, draws.noise[DM], sigma)
        with torch.no_grad():
            v = self.velocity("teacher", x, sigma, condition)
            if o.consistency_guidance != 1:
                null = self.velocity("teacher", x, sigma, self.adapter.null(x.shape[0]))
                v = null + o.consistency_guidance * (v - null)
            x_below = objectives.extrapolate(x, v, sigma, below)
            target = clean_estimate(x_below, self.velocity("student", x_below, below, condition), below)
        return objectives.consistency_loss(self._student([Point(x, sigma)], condition)[0], target)

    def _health(
        self,
        directions: dict[str, Tensor],
        clean: dict[str, Tensor],
        estimates: dict[str, Tensor],
        sigma: Tensor,
    ) -> dict[str, float]:
        """Figures of the monitors, by the first term there is of DM, CA and CDM."""
        health: dict[str, float] = {}
        if "ca" in directions and "dm" in directions:
            value = monitors.cosine(directions["ca"], directions["dm"])
            if value is not None:
                health["cos_ca_dm"] = value
        name = next(term for term in ("dm", "ca", "cdm") if term in directions)
        estimate, reference = estimates[name].detach(), clean[f"{name}_real"]
        health["std_ratio"] = monitors.std_ratio(estimate, reference)
        scale = objectives.push_scale(estimate, reference, self.objective.min_norm)
        return health | monitors.binned_norms(directions[name], scale, sigma)
