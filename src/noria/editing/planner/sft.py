"""Supervised fine-tuning of a planner on think/answer outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from noria.editing.planner.policy import Policy, Request
from noria.editing.planner.settings import SftSettings
from noria.editing.planner.trainer import _training_mode, batches, optimizer_step, weight_updates

if TYPE_CHECKING:
    from noria.core.runs.run import Run


@dataclass(frozen=True)
class Example:
    """A request with the output that a planner should write."""

    request: Request
    output: str


ExampleSource = Callable[[int, int], Sequence[Example]]
"""Gives the examples of a step: its number, and how many; the same for the same step."""


def shuffled(examples: Sequence[Example], seed: int) -> ExampleSource:
    """Examples in a new order each time that all were seen."""

    def at(step: int, count: int) -> list[Example]:
        chosen = []
        for place in range(step * count, (step + 1) * count):
            order = np.random.default_rng([seed, 12, place // len(examples)]).permutation(len(examples))
            chosen.append(examples[int(order[place % len(examples)])])
        return chosen

    return at


class SftTrainer:
    """Trains a policy to write given outputs; a run resumes exactly.

    Args:
        policy: policy to train.
        examples: examples of each step.
        settings: settings.
    """

    def __init__(self, policy: Policy, examples: ExampleSource, settings: SftSettings) -> None:
        self.policy, self.examples, self.settings = policy, examples, settings
        self.updates = weight_updates(policy, settings)
        self.state = self.updates.state

    def train(
        self, run: Run | None = None, *, on_step: Callable[[int, Mapping[str, Any]], None] | None = None
    ) -> None:
        """Train to the last step, from the run's checkpoint where it has one.

        Raises:
            DivergenceError: the gradients are not finite.
        """
        if run is not None:
            self.updates.resume(run)
        settings = self.settings
        while self.state.step < settings.steps:
            values = self.step()
            if run is not None:
                run.log(self.state.step, **values)
                if self.state.step % settings.save_every == 0 or self.state.step == settings.steps:
                    self.state.save(run)
            if on_step is not None:
                on_step(self.state.step, values)

    def step(self) -> dict[str, float]:
        """One optimizer step: the mean negative log-probability of the outputs' tokens, the end token included."""
        settings = self.settings
        examples = self.examples(self.state.step, settings.batch_size)
        prompts = self.policy.encode([example.request for example in examples])
        ids, mask = self.policy.target([example.output for example in examples])
        self.updates.zero()
        total, whole = 0.0, mask.sum()
        for part in batches(range(len(examples)), mask, settings.micro_batch):
            width = int(mask[part].sum(1).max())
            with _training_mode(self.policy.model, settings):
                logprobs, _ = self.policy.logprobs(prompts.rows(part), ids[part, :width], mask[part, :width])
            loss = -(logprobs * mask[part, :width]).sum() / whole
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        factor = 1 - 0.9 * self.state.step / settings.steps if settings.decay else 1.0
        norm = optimizer_step(self.updates, settings, factor)
        self.state.step += 1
        return {"loss": total, "norm": norm}
