"""Rollouts of a router that chooses once, on a table: what it is paid, and the exact gradient it ought to follow.

A rollout draws a route from π(· | question) and is paid by component: was it readable (`form`), was the answer right
(`answer`), was it cheap (`thrift`). A table knows what every route is worth, so the gradient of the mean accuracy

    J = Σ_d 1/D · mean_{q ∈ d} Σ_r π(r | q) quality[q, r]

is known exactly, and how well a batch's gradient points along it can be measured instead of guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from noria.core.training.rl import policy_loss
from noria.routing.rewards.components import FORM_ANSWER_COST
from noria.routing.tables.answers import Thrift
from noria.routing.tables.table import Table


@dataclass(frozen=True)
class Disturbance:
    """What goes wrong in rollouts that the policy cannot help.

    Attributes:
        form: chance that a rollout is unreadable.
        lost: chance that the route's server fails, so that the question is served by nobody.
        scale: (data set, factor) of the answers' reward.
        often: (data set, factor) of how often the data set is sampled.
    """

    form: float = 0.0
    lost: float = 0.0
    scale: tuple[tuple[str, float], ...] = ()
    often: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class RolloutBatch:
    """A batch of rollouts.

    Attributes:
        question: [rows], row of the table.
        route: [rows], column of the table, drawn from the policy.
        rewards: [rows, 3]: form, answer (0 where the route failed), thrift; NaN where one is not known.
        group: [rows], number of the group.
        dataset: [rows], name of the data set.
    """

    question: Tensor
    route: Tensor
    rewards: Tensor
    group: Tensor
    dataset: list[str]


class Replay:
    """A table ready for rollouts.

    Args:
        table: a table with scores.
        features: [questions, width].
        disturbance: what goes wrong in rollouts.
        thrift: scale of costs; the table's own by default, where it knows a cost.
    """

    names = tuple(FORM_ANSWER_COST)

    def __init__(
        self,
        table: Table,
        features: np.ndarray,
        *,
        disturbance: Disturbance | None = None,
        thrift: Thrift | None = None,
    ) -> None:
        self.table, self.disturbance = table, disturbance or Disturbance()
        self.features = torch.from_numpy(np.asarray(features, dtype=np.float32))
        self.dataset = table.dataset
        self.sets = sorted(set(self.dataset))
        self.number = torch.tensor([self.sets.index(name) for name in self.dataset])
        factor = dict(self.disturbance.scale)
        scale = torch.tensor([factor.get(name, 1.0) for name in self.dataset], dtype=torch.float64)
        self.quality = torch.from_numpy(table.quality)
        self.answer = self.quality * scale[:, None]
        cost = table.cost
        thrift = thrift or Thrift.of_known(cost)
        self.thrift = torch.from_numpy(np.full(cost.shape, np.nan) if thrift is None else thrift(cost))
        often = dict(self.disturbance.often)
        self.chance = torch.tensor([often.get(name, 1.0) for name in self.dataset], dtype=torch.float64)

    def roll(
        self, network: nn.Module, *, prompts: int, group: int, generator: torch.Generator
    ) -> RolloutBatch:
        """Draw questions and, for each, `group` routes from the policy."""
        rows = torch.multinomial(
            self.chance, prompts, replacement=prompts > len(self.chance), generator=generator
        )
        with torch.no_grad():
            chances = network(self.features[rows]).softmax(-1)
        route = torch.multinomial(chances, group, replacement=True, generator=generator).flatten()
        question = rows.repeat_interleave(group)
        odds = torch.rand(len(question), 2, generator=generator)
        form = (odds[:, 0] >= self.disturbance.form).double()
        answer, thrift = self.answer[question, route], self.thrift[question, route]
        lost = odds[:, 1] < self.disturbance.lost
        rewards = torch.stack(
            [form, answer.masked_fill(lost & ~answer.isnan(), 0.0), thrift.masked_fill(lost, torch.nan)], 1
        )
        names = [self.dataset[q] for q in question.tolist()]
        return RolloutBatch(question, route, rewards, torch.arange(prompts).repeat_interleave(group), names)


def policy_gradient(network: nn.Module, replay: Replay, rolled: RolloutBatch, advantages: Tensor) -> Tensor:
    """Loss of a batch on its own policy, −mean A log π(route | question), to go backward through."""
    logp = network(replay.features[rolled.question]).log_softmax(-1)
    chosen = logp.gather(1, rolled.route[:, None])
    return policy_loss(chosen, chosen.detach(), advantages, torch.ones_like(chosen)).loss


def exact_gradient(network: nn.Module, replay: Replay) -> Tensor:
    """Gradient ∇J over all parameters, as one vector; qualities that are not known are left out."""
    given = ~replay.quality.isnan()
    quality = torch.where(given, replay.quality, 0.0).float()
    value = (network(replay.features).softmax(-1) * quality).sum(1)
    sizes = torch.bincount(replay.number, minlength=len(replay.sets)).float()
    weight = 1 / (len(replay.sets) * sizes[replay.number])
    return flat_gradient(network, (value * weight).sum())


def flat_gradient(network: nn.Module, value: Tensor, *, retain: bool = False) -> Tensor:
    """Gradient of a number over all parameters, as one vector."""
    grads: Iterable[Tensor] = torch.autograd.grad(value, list(network.parameters()), retain_graph=retain)
    return torch.cat([grad.flatten() for grad in grads])


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of two vectors; NaN where one is zero."""
    size = float(a.norm() * b.norm())
    return float(a @ b) / size if size > 0 else float("nan")


def energies(
    network: nn.Module, replay: Replay, rolled: RolloutBatch, advantages: Tensor, sets: Sequence[str]
) -> dict[str, float]:
    """Squared norm of each data set's part of a batch's gradient."""
    logp = network(replay.features[rolled.question]).log_softmax(-1)
    chosen = logp.gather(1, rolled.route[:, None])[:, 0]
    names = np.array(rolled.dataset)
    energy = dict.fromkeys(sets, 0.0)
    for name in sets:
        here = torch.from_numpy(names == name)
        if here.any():
            part = (chosen[here] * advantages[here]).sum() / len(advantages)
            energy[name] = float(flat_gradient(network, part, retain=True).square().sum())
    return energy
