"""GRPO of a planner: rollouts in streams, advantages per prompt and stream, one clipped gradient.

J = Σ_s mean_i mean_t min(ρ A_s,i, clip(ρ, 1 − ε_l, 1 + ε_h) A_s,i) − β KL over the streams s, with ρ the ratio of a
token's probabilities (DDA-Thinker, arXiv 2604.25477, eq. 3 to 5). The paper's ε, β and averaging are not known; they
are settings.
"""

from __future__ import annotations

import contextlib
import copy
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from noria.core.errors import DivergenceError
from noria.core.training.rl import credited, policy_loss
from noria.core.training.updates import Updates
from noria.editing.planner.policy import Policy, Request
from noria.editing.planner.rollouts import Rewarder, Rollouts, TokenCredit, roll_out, stream_settings
from noria.editing.planner.settings import GrpoSettings, TunedWeights
from noria.editing.planner.weights import prepare_weights
from noria.editing.rewards.streams import stream_advantages

if TYPE_CHECKING:
    from noria.core.runs.run import Run

Watch = Callable[[int, Mapping[str, Any]], None]


class PlannerTrainer:
    """Trains a policy by GRPO. A step follows from the weights, the seed and its number, so a run resumes exactly.

    Args:
        policy: policy to train.
        requests: prompts; rewarded by their numbers.
        rewarder: rewards the outputs.
        settings: settings.
        credit: shares advantages out to tokens; each token has the whole of its output by default.
    """

    def __init__(
        self,
        policy: Policy,
        requests: Sequence[Request],
        rewarder: Rewarder,
        settings: GrpoSettings,
        *,
        credit: TokenCredit | None = None,
    ) -> None:
        self.credit = credit
        self.policy, self.requests, self.rewarder, self.settings = policy, list(requests), rewarder, settings
        self.reference = copy.deepcopy(policy.model).eval() if settings.beta and not settings.lora else None
        self.updates = weight_updates(policy, settings)
        self.state = self.updates.state
        self.renders = 0

    def train(self, run: Run | None = None, *, on_step: Watch | None = None) -> None:
        """Train to the last step, from the run's checkpoint where it has one.

        Raises:
            DivergenceError: the loss or the gradients are not finite.
        """
        if run is not None and (checkpoint := self.updates.resume(run)) is not None:
            self.renders = int(checkpoint.state["renders"])
        while self.state.step < self.settings.steps:
            values = self.step()
            if run is not None:
                run.log(self.state.step, **values)
                if self.state.step % self.settings.save_every == 0 or self.state.step == self.settings.steps:
                    self.state.save(run, renders=self.renders)
            if on_step is not None:
                on_step(self.state.step, values)

    def step(self) -> dict[str, Any]:
        """One step: draw, reward, update. Returns figures for the log."""
        began = time.perf_counter()
        rollouts = roll_out(self.policy, self.requests, self.state.step, self.settings)
        drawn = time.perf_counter()
        rewards = self._rewards(rollouts)
        rewarded = time.perf_counter()
        advantages = stream_advantages(rewards, rollouts.group, stream_settings(self.settings))
        earned = advantages.to(self.policy.device)
        if self.credit is not None and bool(advantages.any()):
            earned = credited(earned, self.credit(self.policy, rollouts, earned, self.state.step))
        values = self._update(rollouts, earned)
        self.state.step += 1
        seconds = {
            "draw": drawn - began,
            "reward": rewarded - drawn,
            "update": time.perf_counter() - rewarded,
        }
        return self._figures(rollouts, rewards, advantages) | values | {"seconds": list(seconds.values())}

    def _rewards(self, rollouts: Rollouts) -> Tensor:
        before = self.rewarder.renders
        pairs = self.rewarder(rollouts.attempts)
        self.renders += self.rewarder.renders - before
        return torch.tensor([[math.nan if value is None else value for value in pair] for pair in pairs])

    def _update(self, rollouts: Rollouts, advantages: Tensor) -> dict[str, float]:
        """Gradient steps on the union of all groups, each with its own advantages: [rows], or [rows, T] by token."""
        sampled = rollouts.sampled
        moved = (advantages != 0).reshape(len(advantages), -1).any(1)
        useful = moved.nonzero()[:, 0].tolist()  # a row without advantage has no gradient when β = 0
        rows = list(range(len(advantages))) if self.settings.beta else useful
        figures = {"loss": 0.0, "clipped": 0.0, "entropy": 0.0, "norm": 0.0, "kl": 0.0}
        for _ in range(self.settings.passes if rows else 0):
            self.updates.zero()
            total = self._normalizer(sampled.mask, rows)
            for part in batches(rows, sampled.mask, self.settings.micro_batch):
                for name, value in self._pass(rollouts, advantages, part, total).items():
                    figures[name] += value / self.settings.passes
            figures["norm"] = optimizer_step(self.updates, self.settings)
        return figures | {"rows": float(len(rows))}

    def _normalizer(self, mask: Tensor, rows: list[int]) -> float:
        # Rows without advantage count in the average, as they do in the paper's mean over a group.
        return float(mask.sum()) if self.settings.aggregation == "dapo" else float(len(mask))

    def _pass(
        self, rollouts: Rollouts, advantages: Tensor, part: list[int], total: float
    ) -> dict[str, float]:
        ids, mask, old = (
            tensor[part]
            for tensor in (rollouts.sampled.ids, rollouts.sampled.mask, rollouts.sampled.logprobs)
        )
        width = int(mask.sum(1).max())
        ids, mask, old = ids[:, :width], mask[:, :width], old[:, :width]
        prompts = rollouts.prompts.rows(part)
        settings = self.settings
        with _training_mode(self.policy.model, settings):
            logprobs, entropy = self.policy.logprobs(prompts, ids, mask, temperature=settings.temperature)
        reference = self._reference(prompts, ids, mask) if settings.beta else None
        loss = policy_loss(
            logprobs,
            old,
            advantages[part][..., :width] if advantages.ndim == 2 else advantages[part],
            mask,
            aggregation=settings.aggregation,
            clip_low=settings.clip_low,
            clip_high=settings.clip_high,
            normalizer=total,
            reference_logprobs=reference,
            beta=settings.beta,
        )
        loss.loss.backward()  # type: ignore[no-untyped-call]
        share = float(mask.sum()) / float(rollouts.sampled.mask.sum())
        gap = 0.0 if reference is None else float(((logprobs.detach() - reference) * mask).sum() / mask.sum())
        mean = float((entropy.detach() * mask).sum() / mask.sum())
        return {
            "loss": float(loss.loss.detach()),
            "clipped": float(loss.clipped) * share,
            "entropy": mean * share,
            "kl": gap * share,
        }

    @torch.no_grad()
    def _reference(self, prompts: Any, ids: Tensor, mask: Tensor) -> Tensor:
        policy = self.policy
        with (
            _without_adapters(policy.model)
            if self.reference is None
            else _other_model(policy, self.reference)
        ):
            return policy.logprobs(prompts, ids, mask, temperature=self.settings.temperature)[0]

    def _figures(self, rollouts: Rollouts, rewards: Tensor, advantages: Tensor) -> dict[str, Any]:
        def mean(column: Tensor) -> float | None:
            kept = column[column.isfinite()]
            return float(kept.mean()) if len(kept) else None

        groups = torch.unique(rollouts.group)
        flat = sum(bool((advantages[rollouts.group == g] == 0).all()) for g in groups)
        lengths = rollouts.sampled.mask.sum(1).tolist()
        return {
            "r_cog": mean(rewards[:, 0]),
            "r_vis": mean(rewards[:, 1]),
            "renders": self.renders,
            "flat": flat / len(groups),
            "length": statistics.fmean(lengths),
            "cut": sum(n == self.settings.longest for n in lengths) / len(lengths),
        }


# --- what both trainings share --------------------------------------------------------------------------------


def weight_updates(policy: Policy, settings: TunedWeights) -> Updates:
    """Updates of the weights that are trained, with the state that resumes them."""
    return Updates(
        prepare_weights(policy, settings),
        prefix="planner",
        lr=settings.rate,
        betas=(0.9, 0.99),
        weight_decay=settings.weight_decay,
    )


def optimizer_step(updates: Updates, settings: TunedWeights, factor: float = 1.0) -> float:
    """Clip the gradients and take a step; returns their norm.

    Raises:
        DivergenceError: the norm is not finite; the weights stay as they were.
    """
    norm, step = float(updates.clip(settings.clip_norm)), updates.state.step + 1
    if not math.isfinite(norm):
        raise DivergenceError(
            f"the gradients are not finite at step {step}", where="planner", mend="lower lr"
        )
    rise = min(1.0, step / settings.warmup) if settings.warmup else 1.0
    updates.step(settings.rate * rise * factor)
    return norm


def batches(rows: Sequence[int], mask: Tensor, size: int) -> list[list[int]]:
    """Rows in batches of equal length, so that little is computed for padding."""
    lengths = mask.sum(1).tolist()
    order = sorted(rows, key=lambda row: (lengths[row], row))
    return [order[n : n + size] for n in range(0, len(order), size)]


@contextlib.contextmanager
def _training_mode(model: Any, settings: TunedWeights) -> Iterator[None]:
    """Training mode where activations are computed again, which happens in no other."""
    model.train(settings.gradient_checkpointing)
    try:
        yield
    finally:
        model.eval()


@contextlib.contextmanager
def _without_adapters(model: Any) -> Iterator[None]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


@contextlib.contextmanager
def _other_model(policy: Policy, model: Any) -> Iterator[None]:
    own, policy.model = policy.model, model
    try:
        yield
    finally:
        policy.model = own
