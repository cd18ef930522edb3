"""Group-relative policy optimisation with credit of tokens, on one device, that goes on to the bit where it was killed.

A step writes rollouts, scores them with the question's own verifier, and learns from them. Attention is read in the
very pass that is learned from: weights are needed only when its loss is made, so a pass of its own would be wasted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from noria.core.errors import DataError, DivergenceError
from noria.core.runs.run import Run
from noria.core.training.rl import clipped_objective, clipped_tokens, credited, group_advantages
from noria.core.training.state import TrainState
from noria.credit.credit import TokenCredit, Weighed, inputs_of
from noria.credit.responses.answers import finder
from noria.credit.responses.rollout import Rollout, answers, sample
from noria.credit.responses.traces import Traces, find_answers
from noria.credit.tasks.questions import Question, prompt_ids
from noria.credit.training.config import TrainConfig

__all__ = ["CreditTrainer", "StepResult"]


@dataclass(frozen=True)
class StepResult:
    """Number of a step, from 1, and the figures that are logged of it."""

    step: int
    figures: dict[str, float]


class CreditTrainer:
    """Trains a policy in place.

    Args:
        model: a causal language model.
        tokenizer: its own.
        questions: to train on, each once an epoch.
        config: what to do.

    Raises:
        DataError: no questions.
    """

    def __init__(
        self, model: Any, tokenizer: Any, questions: Sequence[Question], config: TrainConfig
    ) -> None:
        if not questions:
            raise DataError("no questions", where="questions", mend="give at least one")
        self.model, self.tokenizer, self.questions, self.config = model, tokenizer, list(questions), config
        self.device = next(model.parameters()).device
        self.find = finder(config.answer)
        eos = tokenizer.eos_token_id
        self.eos = [] if eos is None else [int(eos)]
        pad = tokenizer.pad_token_id
        self.pad = int(pad if pad is not None else eos or 0)
        self.credit = TokenCredit(config.credit_config, replacement=self.pad)
        self.prompts = [prompt_ids(question, tokenizer) for question in self.questions]
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
        )
        self.state = TrainState(self.parameters, self.optimizer, prefix="policy")

    @property
    def step(self) -> int:
        """Number of steps made so far."""
        return self.state.step

    def train(self, run: Run | None = None, *, on_step: Callable[[StepResult], None] | None = None) -> None:
        """Train up to the configured step; with a run, go on from its checkpoint and keep new ones.

        Raises:
            DivergenceError: loss, gradient or logits are not finite; the last checkpoint is whole.
            CheckpointError: the run's checkpoint is of another policy.
        """
        if run is not None:
            self.resume(run)
        while self.step < self.config.steps:
            learned = self.advance()
            if run is not None:
                run.log(learned.step, **learned.figures)
                if self.step % self.config.checkpoint_every == 0 or self.step == self.config.steps:
                    self.state.save(run)
            if on_step is not None:
                on_step(learned)

    def advance(self) -> StepResult:
        """One step."""
        config, began = self.config, time.perf_counter()
        chosen = self.chosen(self.step)
        asked = [n for n in chosen for _ in range(config.group)]
        generator = torch.Generator().manual_seed(_mixed(config.seed, self.step))
        done = sample(
            self.model,
            [self.prompts[n] for n in asked],
            new=config.max_new_tokens,
            temperature=config.temperature,
            generator=generator,
            eos=self.eos,
            pad=self.pad,
        )
        rolled = time.perf_counter()
        given = answers([r.tokens for r in done], self.tokenizer, self.find)
        rewards = torch.tensor([self.questions[n].score(text) for n, text in zip(asked, given, strict=True)])
        group = torch.arange(len(chosen)).repeat_interleave(config.group)
        gains = group_advantages(rewards, group)
        traces = self._traces(asked, done, group, rewards >= 0.5)
        scored = time.perf_counter()
        figures = self._learn(traces, done, gains)
        learned = time.perf_counter()
        self.state.step += 1
        figures = {
            "reward": float(rewards.mean()),
            "answered": sum(text is not None for text in given) / len(given),
            "length": sum(len(r.tokens) for r in done) / len(done),
            **figures,
            "rollout_seconds": rolled - began,
            "score_seconds": scored - rolled,
            "learn_seconds": learned - scored,
        }
        return StepResult(self.step, figures)

    def chosen(self, step: int) -> list[int]:
        """The questions of a step: each once an epoch."""
        count, size = len(self.questions), self.config.prompts
        numbers = []
        for place in range(step * size, (step + 1) * size):
            epoch, within = divmod(place, count)
            generator = torch.Generator().manual_seed(_mixed(self.config.seed, epoch, 1))
            numbers.append(int(torch.randperm(count, generator=generator)[within]))
        return numbers

    # -- parts of a step --------------------------------------------------------------------------------------

    def _traces(
        self, asked: Sequence[int], done: Sequence[Rollout], group: Tensor, correct: Tensor
    ) -> Traces:
        responses = [r.tokens for r in done]
        spans = find_answers(responses, self.tokenizer, self.find)
        skip = self.tokenizer.all_special_ids if self.credit.config.skip_special else ()
        traces = Traces.of(
            [self.prompts[n] for n in asked],
            responses,
            spans,
            pad=self.pad,
            skip=skip,
            longest_answer=self.credit.config.longest_answer,
            group=group,
            correct=correct,
        )
        return traces.to(self.device)

    def _learn(self, traces: Traces, done: Sequence[Rollout], gains: Tensor) -> dict[str, float]:
        config, gains = self.config, gains.to(self.device)
        here = self.credit.reads and self.credit.config.within == "response"
        before: Weighed | None = None
        if gains.any() and not here:
            before = self.credit.weigh(
                self.credit.score(self.model, traces, step=self.step), traces, gains, step=self.step
            )
        old = torch.zeros(traces.tokens.shape, device=self.device)
        for row, rollout in enumerate(done):
            old[row, traces.response[row]] = torch.tensor(rollout.logprobs, device=self.device)
        total = max(1, int(traces.response.sum()))
        metrics: dict[str, list[tuple[float, int]]] = {}
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        self.optimizer.zero_grad(set_to_none=True)
        self.model.train()
        for start in range(0, len(old), config.micro_batch):
            part = slice(start, start + config.micro_batch)
            if not gains[part].any():
                continue  # groups that are all right or all wrong teach nothing
            weights = None if before is None else before.weights[part]
            found, told = self._backward(traces.rows(part), old[part], gains[part], weights, total)
            sums += found
            for name, value in told.items():
                metrics.setdefault(name, []).append((value, len(old[part])))
        self.model.eval()
        norm = float(nn.utils.clip_grad_norm_(self.parameters.values(), config.grad_clip))
        if not math.isfinite(norm):
            raise DivergenceError(
                f"the gradient is {norm:g}",
                where=f"step {self.step + 1}",
                mend="lower lr; the last checkpoint is whole",
            )
        if gains.any():
            self.optimizer.step()
        entropy, clipped, gap = (float(x) / total for x in sums)
        figures = {
            "entropy": entropy,
            "clipped": clipped,
            "kl_behaviour": gap,
            "grad_norm": norm,
            "tokens": total,
        }
        if before is not None:
            return figures | dict(before.metrics)
        means = {
            name: sum(v * n for v, n in pairs) / sum(n for _, n in pairs) for name, pairs in metrics.items()
        }
        return figures | means

    def _backward(
        self, traces: Traces, old: Tensor, gains: Tensor, weights: Tensor | None, total: int
    ) -> tuple[Tensor, Mapping[str, float]]:
        """Backward through some rows, with weights that are there or are read here.

        Returns:
            Sums of entropy, clipped tokens and the divergence from who wrote them; metrics of credit.
        """
        config = self.config
        metrics: Mapping[str, float] = {}
        if weights is None:
            with self.credit.tap(self.model, lambda: traces.sequence, length=traces.tokens.shape[1]) as tap:
                logits = self.model(**inputs_of(traces)).logits[:, :-1]
            scored = self.credit.from_read(tap.passes[0]["read"], traces)
            weighed = self.credit.weigh(scored, traces, gains, step=self.step)
            weights, metrics = weighed.weights, weighed.metrics
        else:
            logits = self.model(**inputs_of(traces)).logits[:, :-1]
        logp = (logits.float() / config.temperature).log_softmax(-1)
        counts = traces.response[:, 1:]
        new = logp.gather(-1, traces.tokens[:, 1:, None])[..., 0]
        log_ratio = (new - old[:, 1:]).where(counts, 0.0)
        earned = credited(gains, weights)[:, 1:]
        objective = clipped_objective(log_ratio, earned, clip_low=config.clip_low, clip_high=config.clip_high)
        (-objective.where(counts, 0.0).sum() / total).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            outside = clipped_tokens(log_ratio, earned, clip_low=config.clip_low, clip_high=config.clip_high)
            parts = (-(logp.exp() * logp).sum(-1), outside, log_ratio.exp() - 1 - log_ratio)
            return torch.stack([part.double().where(counts, 0.0).sum() for part in parts]), metrics

    def resume(self, run: Run) -> bool:
        """Restore the run's newest checkpoint, and say whether there was one.

        Random numbers are functions of seed and step, so no random state is stored.

        Raises:
            CheckpointError: it is of another policy.
        """
        return self.state.resume(run) is not None


def _mixed(*numbers: int) -> int:
    """One seed out of several numbers, below 2³²: PyTorch's CPU generator looks at no more."""
    mixed = 0x9E3779B9
    for number in numbers:
        mixed = (mixed ^ number) * 0x85EBCA6B & 0xFFFFFFFF
        mixed ^= mixed >> 13
    return mixed
