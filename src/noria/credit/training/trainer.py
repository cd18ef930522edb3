"""Group-relative policy optimisation with credit of tokens, on one device; a killed training resumes bit for bit.

A step draws rollouts, scores them with the question's own verifier, and learns from them. Attention is read in the pass
whose loss is minimised: weights are needed only when that loss is computed, so a separate pass would be wasted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from noria.core.errors import DataError, DivergenceError
from noria.core.runs.run import Run
from noria.core.training.rl import clipped_objective, clipped_tokens, credited, group_advantages
from noria.core.training.updates import Updates
from noria.credit.credit import TokenCredit
from noria.credit.passes import inputs_of
from noria.credit.responses.answers import answer_texts, finder
from noria.credit.responses.rollout import Rollout, end_and_pad, sample
from noria.credit.responses.traces import Traces, find_answers, trace_settings
from noria.credit.signals import mean_metrics
from noria.credit.tasks.questions import Question, prompt_ids
from noria.credit.training.config import TrainConfig


@dataclass(frozen=True)
class StepResult:
    """The number of a step, from 1, and the figures that are logged for it."""

    step: int
    figures: dict[str, float]


class CreditTrainer:
    """Trains a policy in place.

    Args:
        model: causal language model.
        tokenizer: tokenizer of the model.
        questions: questions to train on, each once an epoch.
        config: settings of the training.

    Raises:
        DataError: there are no questions.
    """

    def __init__(
        self, model: Any, tokenizer: Any, questions: Sequence[Question], config: TrainConfig
    ) -> None:
        if not questions:
            raise DataError("no questions", where="questions", mend="give at least one")
        self.model, self.tokenizer, self.questions, self.config = model, tokenizer, list(questions), config
        self.device = next(model.parameters()).device
        self.find = finder(config.answer)
        self.eos, self.pad = end_and_pad(tokenizer)
        self.credit = TokenCredit(config.credit_config, replacement=self.pad)
        self.prompts = [prompt_ids(question, tokenizer) for question in self.questions]
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.updates = Updates(
            self.parameters,
            prefix="policy",
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )

    @property
    def step(self) -> int:
        """Number of training steps done so far."""
        return self.updates.state.step

    def train(self, run: Run | None = None, *, on_step: Callable[[StepResult], None] | None = None) -> None:
        """Train up to the configured step; with a run, resume from its checkpoint and save new ones.

        Raises:
            DivergenceError: loss, gradient or logits are not finite; the last checkpoint is whole.
            CheckpointError: the run's checkpoint is of another policy.
        """
        if run is not None:
            # Random numbers are functions of seed and step, so no random state is stored.
            self.updates.resume(run)
        while self.step < self.config.steps:
            result = self.advance()
            if run is not None:
                run.log(result.step, **result.figures)
                if self.step % self.config.checkpoint_every == 0 or self.step == self.config.steps:
                    self.updates.state.save(run)
            if on_step is not None:
                on_step(result)

    def advance(self) -> StepResult:
        """Do one training step."""
        config, began = self.config, time.perf_counter()
        chosen = self.chosen(self.step)
        questions = [n for n in chosen for _ in range(config.group)]
        rollouts = sample(
            self.model,
            [self.prompts[n] for n in questions],
            new=config.max_new_tokens,
            temperature=config.temperature,
            generator=torch.Generator().manual_seed(_mixed(config.seed, self.step)),
            eos=self.eos,
            pad=self.pad,
        )
        drawn = time.perf_counter()
        texts = answer_texts([rollout.tokens for rollout in rollouts], self.tokenizer, self.find)
        rewards = torch.tensor(
            [self.questions[n].score(text) for n, text in zip(questions, texts, strict=True)]
        )
        group = torch.arange(len(chosen)).repeat_interleave(config.group)
        gains = group_advantages(rewards, group)
        traces = self._traces(questions, rollouts, group=group, correct=rewards >= 0.5)
        scored = time.perf_counter()
        figures = self._learn(traces, rollouts, gains)
        learned = time.perf_counter()
        self.updates.state.step += 1
        figures = {
            "reward": float(rewards.mean()),
            "answered": sum(text is not None for text in texts) / len(texts),
            "length": sum(len(rollout.tokens) for rollout in rollouts) / len(rollouts),
            **figures,
            "rollout_seconds": drawn - began,
            "score_seconds": scored - drawn,
            "learn_seconds": learned - scored,
        }
        return StepResult(self.step, figures)

    def chosen(self, step: int) -> list[int]:
        """Numbers of the questions of a step, each once an epoch."""
        count, size = len(self.questions), self.config.prompts
        numbers = []
        for place in range(step * size, (step + 1) * size):
            epoch, within = divmod(place, count)
            generator = torch.Generator().manual_seed(_mixed(self.config.seed, epoch, 1))
            numbers.append(int(torch.randperm(count, generator=generator)[within]))
        return numbers

    # -- parts of a step --------------------------------------------------------------------------------------

    def _traces(self, questions: Sequence[int], rollouts: Sequence[Rollout], **more: Any) -> Traces:
        responses = [rollout.tokens for rollout in rollouts]
        traces = Traces.of(
            [self.prompts[n] for n in questions],
            responses,
            find_answers(responses, self.tokenizer, self.find),
            pad=self.pad,
            **trace_settings(self.credit.config, self.tokenizer),
            **more,
        )
        return traces.to(self.device)

    def _learn(self, traces: Traces, rollouts: Sequence[Rollout], gains: Tensor) -> dict[str, float]:
        config, gains = self.config, gains.to(self.device)
        weights: Tensor | None = None
        metrics: list[tuple[Mapping[str, float], int]] = []
        # Where tokens are ranked within their response, attention is read in the learning pass itself.
        if gains.any() and not (self.credit.reads and self.credit.config.within == "response"):
            scored = self.credit.score(self.model, traces, step=self.step)
            weighed = self.credit.weigh(scored, traces, gains, step=self.step)
            weights = weighed.weights
            metrics.append((weighed.metrics, len(gains)))
        old = torch.zeros(traces.tokens.shape, device=self.device)
        for row, rollout in enumerate(rollouts):
            old[row, traces.response[row]] = torch.tensor(rollout.logprobs, device=self.device)
        total = max(1, int(traces.response.sum()))
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        self.updates.zero()
        self.model.train()
        for start in range(0, len(old), config.micro_batch):
            part = slice(start, start + config.micro_batch)
            if not gains[part].any():
                continue  # groups that are all right or all wrong teach nothing
            own = None if weights is None else weights[part]
            part_sums, part_metrics = self._backward(traces.rows(part), old[part], gains[part], own, total)
            sums += part_sums
            if weights is None:
                metrics.append((part_metrics, len(old[part])))
        self.model.eval()
        norm = float(self.updates.clip(config.grad_clip))
        if not math.isfinite(norm):
            raise DivergenceError(
                f"the gradient is {norm:g}",
                where=f"step {self.step + 1}",
                mend="lower lr; the last checkpoint is whole",
            )
        if gains.any():
            self.updates.step()
        entropy, clipped, divergence = (float(x) / total for x in sums)
        figures = {
            "entropy": entropy,
            "clipped": clipped,
            "kl_behaviour": divergence,
            "grad_norm": norm,
            "tokens": total,
        }
        return figures | mean_metrics(metrics)

    def _backward(
        self, traces: Traces, old: Tensor, gains: Tensor, weights: Tensor | None, total: int
    ) -> tuple[Tensor, Mapping[str, float]]:
        """Run backward through some rows; where `weights` is None, they are read in the same pass.

        Returns:
            Sums of entropy, clipped tokens and the divergence from the policy that drew them; metrics of credit.
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


def _mixed(*numbers: int) -> int:
    """One seed out of several numbers, below 2³², as PyTorch's CPU generator uses only 32 bits."""
    mixed = 0x9E3779B9
    for number in numbers:
        mixed = (mixed ^ number) * 0x85EBCA6B & 0xFFFFFFFF
        mixed ^= mixed >> 13
    return mixed
