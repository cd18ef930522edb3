"""Reward calibration: from rewards by component to one advantage a rollout, comparable across prompts and data sets.

    1a  eligibility   e[k]: which rewards count (`noria.routing.rewards.components`)
    1b  component     A[k] = (r[k] − μ[k]) / (σ[k] + ε) over the eligible rows of a group, else 0
    2a  variance      w = low + (high − low) · sigmoid(κ (σ − σ̄_d)), on the answer's advantage or on all
    sum               A = Σ_k λ[k] w A[k]
    2b  data set      Â = A / (s_d + ε), log s_d = (N_d log √(S_d/N_d) + N₀ log s) / (N_d + N₀)

σ is the deviation of the answer's reward within a group, before anything is divided by it, and σ̄_d its running mean
over data set d. S_d and N_d are the running sum of squares and the count of the rows of d that have a signal; s is the
root mean square of this batch, of which N₀ rows' worth steadies a data set that is rarely seen. They are mixed as
logarithms: as squares, the loudest data set would drown the others. Group-centred advantages have mean zero, so only
their scale is touched.

Provenance. That there are these two stages is stated by ReCal (arXiv 2606.12479); its equations could not be read. 1b
is step 1 of GDPO (arXiv 2601.05242), 2a is HERO's published form with its defaults (arXiv 2510.07242), 1a, 2b and the
order are reconstructed. Dividing by a group's σ inflates near-trivial groups (one success of eight scores +2.47, four
of eight ±0.94), and 2a is what undoes that. GRPO, Dr.GRPO, GDPO and DAPO are points of the same space: `PRESETS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from noria.core.config import Config
from noria.core.errors import CheckpointError, ConfigError
from noria.core.training.rl import Scale, group_moments, group_numbers
from noria.routing.rewards.components import FORM_ANSWER_COST, Component, eligible, order

__all__ = [
    "PRESETS",
    "CalibrationConfig",
    "CalibrationResult",
    "CalibrationState",
    "DatasetScaling",
    "VarianceWeight",
    "calibrate",
    "preset",
]


class VarianceWeight(Config):
    """Stage 2a.

    Attributes:
        kind: `sigmoid` (HERO's), `power`: (σ/σ_max)^p, or `none`.
        direction: `up` stresses groups whose outcomes vary, `down` those that agree.
        low, high: the least and the greatest weight of `sigmoid`.
        kappa: its steepness.
        power: p of `power`.
        momentum: β of the running mean of σ.
        target: the component whose σ is read.
        on: whose advantage is weighted: the target's or all.
    """

    kind: Literal["sigmoid", "power", "none"] = "none"
    direction: Literal["up", "down"] = "up"
    low: float = Field(0.5, ge=0)
    high: float = Field(2.0, ge=0)
    kappa: float = Field(5.0, ge=0)
    power: float = Field(1.0, ge=0)
    momentum: float = Field(0.1, gt=0, le=1)
    target: str = "answer"
    on: Literal["target", "all"] = "target"


class DatasetScaling(Config):
    """Stage 2b.

    Attributes:
        kind: `rms`, or `none`.
        memory: how much of the running sums stays at a step; 0 forgets them.
        prior: N₀.
        weight: how much a data set counts in the loss: as often as it was sampled, the square root of that, or all
            alike.
    """

    kind: Literal["rms", "none"] = "none"
    memory: float = Field(0.9, ge=0, lt=1)
    prior: float = Field(32.0, ge=0)
    weight: Literal["proportional", "sqrt", "uniform"] = "proportional"


class CalibrationConfig(Config):
    """How rewards become advantages.

    Attributes:
        components: what is rewarded.
        gate: an ineligible reward is left out (`mask`), or counts as 0 (`zero`).
        combine: each component is normalised and then they are summed, or the other way round.
        scale: what a centred reward is divided by.
        epsilon: added to deviations: TRL's 1e-4, or verl's 1e-6.
        flat: a deviation that counts as none.
        whiten: the sum is standardised once more over the whole batch, as GDPO does: each row counts alike, or as many
            times as it has tokens (verl's way).
        variance: stage 2a.
        dataset: stage 2b.
    """

    components: dict[str, Component] = Field(default_factory=lambda: dict(FORM_ANSWER_COST))
    gate: Literal["mask", "zero"] = "mask"
    combine: Literal["normalize_then_sum", "sum_then_normalize"] = "normalize_then_sum"
    scale: Scale = "group"
    epsilon: float = Field(1e-4, gt=0)
    flat: float = Field(1e-8, ge=0)
    whiten: Literal["none", "rows", "tokens"] = "none"
    variance: VarianceWeight = VarianceWeight()
    dataset: DatasetScaling = DatasetScaling()

    def model_post_init(self, context: Any) -> None:
        """Refuse components in a circle, and a variance of a component that is not there."""
        try:
            order(self.components)
        except ConfigError as error:
            raise ValueError(error.what) from None
        if self.variance.kind != "none" and self.variance.target not in self.components:
            raise ValueError(f"variance.target {self.variance.target!r} is no component")


TINY = 1e-30

SCALAR: dict[str, Any] = {"gate": "zero", "combine": "sum_then_normalize"}
SIGMOID, RMS = {"kind": "sigmoid"}, {"kind": "rms"}

PRESETS: dict[str, dict[str, Any]] = {
    "grpo": SCALAR,
    "dr_grpo": {**SCALAR, "scale": "none"},
    "dapo": SCALAR,
    "gdpo": {"gate": "zero", "whiten": "rows"},
    "recal": {"variance": SIGMOID, "dataset": RMS},
    "recal_uniform": {"variance": SIGMOID, "dataset": {**RMS, "weight": "uniform"}},
    "recal_dr": {"scale": "none", "dataset": RMS},
    "gates": {},
    "no_decomposition": {**SCALAR, "variance": {**SIGMOID, "on": "all"}, "dataset": RMS},
    "no_variance": {"dataset": RMS},
    "no_dataset": {"variance": SIGMOID},
}
"""
grpo              the sum of rewards, standardised in its group (arXiv 2402.03300)
dr_grpo           only centred (arXiv 2503.20783)
dapo              GRPO's advantages; what else DAPO does, the trainer does: loss by token, wider clip, no dead groups
gdpo              each component standardised, summed, and standardised over the batch (arXiv 2601.05242)
recal             all of the above stages
recal_uniform     and every data set counts alike
recal_dr          without dividing by a group's deviation
gates             stage 1 alone
no_decomposition  ReCal on the sum of rewards
no_variance       ReCal without stage 2a
no_dataset        ReCal without stage 2b
"""


def preset(name: str, components: Mapping[str, Component] | None = None, **changes: Any) -> CalibrationConfig:
    """A configuration by name.

    Args:
        name: of `PRESETS`.
        components: instead of the preset's.
        changes: of its other fields.

    Raises:
        ConfigError: there is no such preset.
    """
    if name not in PRESETS:
        raise ConfigError(
            f"no calibration {name!r}", where="calibration", mend=f"choose from {', '.join(PRESETS)}"
        )
    values = PRESETS[name] | changes
    if components is not None:
        values = values | {"components": dict(components)}
    return CalibrationConfig.model_validate(values)


@dataclass
class CalibrationState:
    """What is remembered of each data set, by its number; data sets that were never seen come at the end.

    Attributes:
        sigma: running mean of σ, NaN where none was seen: [data sets].
        squares, count: running sum of squared advantages, and of rows.
        rows: running count of all rows, with a signal or not.
    """

    sigma: Tensor
    squares: Tensor
    count: Tensor
    rows: Tensor

    @classmethod
    def empty(cls) -> CalibrationState:
        """Of no data sets."""
        return cls(*(torch.zeros(0, dtype=torch.float64) for _ in range(4)))

    def grown(self, size: int) -> CalibrationState:
        """For at least so many data sets."""
        more = size - len(self.sigma)
        if more <= 0:
            return self
        pads = (torch.nan, 0.0, 0.0, 0.0)
        return CalibrationState(
            *(
                torch.cat([own, torch.full((more,), pad, dtype=torch.float64)])
                for own, pad in zip((self.sigma, self.squares, self.count, self.rows), pads, strict=True)
            )
        )

    def state_dict(self) -> dict[str, list[float | None]]:
        """As JSON values; NaN is null."""
        return {
            name: [None if value != value else value for value in getattr(self, name).tolist()]
            for name in ("sigma", "squares", "count", "rows")
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> CalibrationState:
        """What `state_dict` gave.

        Raises:
            CheckpointError: it is something else.
        """
        try:
            columns = [
                torch.tensor([torch.nan if v is None else float(v) for v in state[name]], dtype=torch.float64)
                for name in ("sigma", "squares", "count", "rows")
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError("no state of a calibration", where="calibration") from error
        if len({len(column) for column in columns}) != 1:
            raise CheckpointError("columns of different lengths", where="calibration")
        return cls(*columns)


@dataclass(frozen=True)
class CalibrationResult:
    """What came of a batch.

    Attributes:
        advantages: [rows], single precision.
        parts: [rows, components]: what each component adds to them.
        eligible: [rows, components]: which rewards counted.
        alive: [rows]: whether any component gave the row a signal.
        weight: [rows]: w of the row's group.
        scale: [data sets]: s_d; 1 where nothing is scaled.
        state: what to remember for the next batch.
    """

    advantages: Tensor
    parts: Tensor
    eligible: Tensor
    alive: Tensor
    weight: Tensor
    scale: Tensor
    state: CalibrationState


def calibrate(
    rewards: Tensor,
    group: Tensor,
    dataset: Tensor,
    *,
    names: Sequence[str],
    config: CalibrationConfig,
    state: CalibrationState | None = None,
    update: bool = True,
    lengths: Tensor | None = None,
) -> CalibrationResult:
    """Advantages of rollouts.

    Args:
        rewards: [rows, components] of any real type; NaN and the infinities were not given.
        group: [rows]: which prompt. Rows are compared within a group of one data set.
        dataset: [rows]: number of the data set, from 0; at or beyond the end of the state's for a new one.
        names: of the columns.
        config: how.
        state: what is remembered.
        update: whether to remember this batch; not in an evaluation.
        lengths: [rows] tokens, for `whiten: tokens`.

    Raises:
        ConfigError: the columns and the components do not go together.
        ValueError: the shapes do not.
    """
    rows = {len(rewards), len(group), len(dataset)}
    if rewards.ndim != 2 or rewards.shape[1] != len(names) or len(rows) > 1:
        raise ValueError(f"rewards {list(rewards.shape)} of {len(names)} components, {len(group)} rows")
    device = rewards.device
    state = state or CalibrationState.empty()
    sets = max(len(state.sigma), int(dataset.max()) + 1 if len(dataset) else 0)
    before = state.grown(sets)
    mask = eligible(rewards, names, config.components)
    index, groups = _groups(group, dataset, sets)
    table = torch.where(mask, rewards, 0.0).to(torch.float32 if device.type == "mps" else torch.float64)
    weights = torch.tensor([config.components[n].weight for n in names], dtype=table.dtype, device=device)

    given = rewards.isfinite()
    parts, alive = _components(table, mask, given, index, groups, weights, config)
    weight, sigma = _variance(table, mask, index, groups, dataset, names, config, before)
    if config.variance.kind != "none":
        if config.variance.on == "all" or config.combine == "sum_then_normalize":
            parts = parts * weight[:, None]
        else:
            column = names.index(config.variance.target)
            parts[:, column] = parts[:, column] * weight
    parts = _whitened(parts, given.any(1), lengths, config)
    parts, scale, sums = _scaled(parts, alive, dataset, sets, config, before)
    after = _remembered(before, sigma, sums, config) if update else before
    return CalibrationResult(
        advantages=parts.sum(1).float(),
        parts=parts.float(),
        eligible=mask,
        alive=alive,
        weight=weight.float(),
        scale=scale,
        state=after,
    )


def _groups(group: Tensor, dataset: Tensor, sets: int) -> tuple[Tensor, int]:
    """Groups of one data set each: [rows] from 0, and how many."""
    if sets <= 1 or not len(group):
        return group_numbers(group)
    if int(group.abs().max()) < 2**62 // sets:
        return group_numbers(group * sets + dataset)
    return group_numbers(group_numbers(group)[0] * sets + dataset)


# -- the stages -------------------------------------------------------------------------------------------------------


def _components(
    table: Tensor,
    mask: Tensor,
    given: Tensor,
    index: Tensor,
    groups: int,
    weights: Tensor,
    config: CalibrationConfig,
) -> tuple[Tensor, Tensor]:
    """λ A of each component [rows, components], and which rows are of a group with a signal [rows]."""
    if config.combine == "normalize_then_sum":
        counted = given if config.gate == "zero" else mask
        moments = group_moments(table, index, groups, counted)
        gap = (table - moments.mean[index]) * weights
        factor, signal = _factor(table, moments.std, counted, index, config)
        signal &= weights != 0  # what earns nothing keeps no group alive
    else:
        # Of a sum, what was not given adds nothing, and a row of which nothing was given is no row. The sum's advantage
        # is the components' distances from their means, over the deviation of the sum.
        counted = given.any(1, keepdim=True)
        values = table * weights
        gap = values - group_moments(values, index, groups, counted.expand_as(values)).mean[index]
        total = values.sum(1, keepdim=True)
        spread = group_moments(total, index, groups, counted).std
        factor, signal = _factor(total, spread, counted, index, config)
    return torch.where(signal, gap * factor, 0.0), signal.any(1)


def _factor(
    values: Tensor, std: Tensor, counted: Tensor, index: Tensor, config: CalibrationConfig
) -> tuple[Tensor, Tensor]:
    """What a centred reward is multiplied by, and where there is a signal: [rows, columns] both."""
    signal = counted & (std > config.flat)[index]
    if config.scale == "none":
        return torch.ones_like(values), signal
    if config.scale == "batch":
        std = group_moments(values, torch.zeros_like(index), 1, counted).std
        return (1 / (std + config.epsilon)).expand_as(values), signal
    return 1 / (std[index] + config.epsilon), signal


def _variance(
    table: Tensor,
    mask: Tensor,
    index: Tensor,
    groups: int,
    dataset: Tensor,
    names: Sequence[str],
    config: CalibrationConfig,
    before: CalibrationState,
) -> tuple[Tensor, Tensor]:
    """W of each row, and the mean σ of each data set in this batch (NaN where there is none)."""
    rule, sets = config.variance, len(before.sigma)
    ones = torch.ones(len(table), dtype=table.dtype, device=table.device)
    if rule.kind == "none" or not len(table):
        return ones, torch.full((sets,), torch.nan, dtype=torch.float64)
    column = names.index(rule.target)
    moments = group_moments(table[:, [column]], index, groups, mask[:, [column]])
    sigma, count = moments.std[:, 0], moments.count[:, 0]
    known = count > 1
    of = torch.zeros(groups, dtype=torch.long, device=table.device).index_copy_(0, index, dataset)
    zeros = torch.zeros(sets, dtype=table.dtype, device=table.device)
    total = zeros.index_add(0, of, torch.where(known, sigma, 0.0))
    number = zeros.index_add(0, of, known.to(table))
    batch = torch.where(number > 0, total / number.clamp(min=1), torch.nan)
    running = before.sigma.to(table)
    level = torch.where(running.isnan(), batch, running)
    if rule.kind == "sigmoid":
        gap = sigma - torch.nan_to_num(level, nan=0.0)[of]
        gap = gap if rule.direction == "up" else -gap
        w = rule.low + (rule.high - rule.low) * torch.sigmoid(rule.kappa * gap)
    else:
        # σ_max of a reward in [0, 1] with n samples is ½ √(n/(n − 1)).
        largest = 0.5 * (count / (count - 1).clamp(min=1)).sqrt()
        share = (sigma / largest.clamp(min=1e-12)).clamp(0, 1)
        w = (share if rule.direction == "up" else 1 - share) ** rule.power
    w = torch.where(known, w, 1.0)
    return w[index], batch.cpu().double()


def _whitened(parts: Tensor, given: Tensor, lengths: Tensor | None, config: CalibrationConfig) -> Tensor:
    """(A − mean) / (std + ε) over the rows that were scored, the mean taken from the components in equal shares."""
    if config.whiten == "none" or len(parts) < 2:
        return parts
    counts = given.to(parts)
    if config.whiten == "tokens":
        if lengths is None:
            raise ValueError("whiten: tokens needs the lengths of the rows")
        counts = counts * lengths.to(parts)
    total, number = parts.sum(1), counts.sum()
    mean = (total * counts).sum() / number.clamp(min=1)
    variance = (((total - mean) ** 2) * counts).sum() / (number - 1).clamp(min=1)
    white = (parts - mean / parts.shape[1]) / (variance.sqrt() + config.epsilon)
    return torch.where(given[:, None], white, 0.0)


def _scaled(
    parts: Tensor,
    alive: Tensor,
    dataset: Tensor,
    sets: int,
    config: CalibrationConfig,
    before: CalibrationState,
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Stage 2b: parts, s_d, and the sums of this batch that are remembered: squares, count, rows."""
    rule = config.dataset
    zeros = torch.zeros(sets, dtype=parts.dtype, device=parts.device)
    square = parts.sum(1) ** 2
    squares = zeros.index_add(0, dataset, torch.where(alive, square, 0.0))
    count = zeros.index_add(0, dataset, alive.to(parts))
    rows = zeros.index_add(0, dataset, torch.ones_like(square))
    batch = tuple(column.cpu().double() for column in (squares, count, rows))
    scale = torch.ones_like(zeros)
    if rule.kind == "rms" and len(parts):
        s, n = (
            squares + rule.memory * before.squares.to(parts),
            count + rule.memory * before.count.to(parts),
        )
        level = (squares.sum() / count.sum().clamp(min=1)).clamp(min=TINY).log()
        own = (s / n.clamp(min=TINY)).clamp(min=TINY).log()
        mixed = (n * own + rule.prior * level) / (n + rule.prior).clamp(min=TINY)
        scale = torch.where(n > 0, (mixed / 2).exp(), 1.0)
        parts = parts / (scale[dataset] + config.epsilon)[:, None]
    if rule.weight != "proportional" and len(parts):
        often = rows + rule.memory * before.rows.to(parts)
        seen = rows > 0
        w = torch.where(seen, often.clamp(min=1e-12) ** (-1.0 if rule.weight == "uniform" else -0.5), 0.0)
        w = w * len(parts) / (w * rows).sum()  # the mean weight of a row is 1
        parts = parts * w[dataset][:, None]
    return parts, scale.float(), batch  # type: ignore[return-value]


def _remembered(
    before: CalibrationState, sigma: Tensor, sums: tuple[Tensor, Tensor, Tensor], config: CalibrationConfig
) -> CalibrationState:
    beta, memory = config.variance.momentum, config.dataset.memory
    mixed = torch.where(before.sigma.isnan(), sigma, (1 - beta) * before.sigma + beta * sigma)
    squares, count, rows = sums
    return CalibrationState(
        torch.where(sigma.isnan(), before.sigma, mixed),
        memory * before.squares + squares,
        memory * before.count + count,
        memory * before.rows + rows,
    )
