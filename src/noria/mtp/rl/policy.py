"""Group-relative policy optimisation with rollouts that draft; the head is frozen, or trained along.

A step rolls out, scores and learns, and the time of each is kept apart. With `staleness` s the batch that is learned
from was rolled out s steps before, as in an asynchronous run whose learner lags that far behind. Log-probabilities are
those of the policy that wrote the text, so the ratio of the clipped objective (Schulman et al. 2017; Shao et al. 2024)
is exact. The head, where it is trained along, has an optimiser and a gradient clip of its own.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from noria.core.errors import DataError, DivergenceError
from noria.core.runs.run import Run
from noria.core.training.rl import clipped_objective, clipped_tokens, group_advantages, kl_estimate
from noria.core.training.updates import Updates
from noria.mtp.config import TrainConfig
from noria.mtp.data import Rows, rows_of_step
from noria.mtp.decoding.decoder import Completion, Decoder, served_counts, served_figures
from noria.mtp.decoding.drafter import HeadDrafter
from noria.mtp.heads.head import MTPHead
from noria.mtp.rl.config import RLConfig
from noria.mtp.rl.monitors import Alarm, DriftMonitor, EntropyMonitor
from noria.mtp.rl.rollout import Batch, Reward, roll_out
from noria.mtp.training.trainer import head_loss, lm_head


@dataclass(frozen=True)
class StepResult:
    """Outcome of one step of a policy's training.

    Attributes:
        step: number of the step, from 1.
        figures: everything that is logged.
        alarms: alarms of the monitors.
    """

    step: int
    figures: Mapping[str, float]
    alarms: Sequence[Alarm]


class PolicyTrainer:
    """Trains a policy by GRPO on rollouts of its own.

    Args:
        model: the policy, trained in place.
        head: drafts its rollouts; None, or `gamma: 0`, decodes plainly.
        prompts: prompts as tokens, each taken once an epoch in an order that the seed gives.
        reward: scores completions.
        config: settings of the training.
        eos: end tokens; the model's own by default.
        vocab: how many logits are tokens.
        drift: compares served acceptance with what was predicted.
        entropy_range: watches the policy's entropy.

    Raises:
        DataError: no prompts.
    """

    def __init__(
        self,
        model: Any,
        head: MTPHead | None,
        prompts: Sequence[Sequence[int]],
        reward: Reward,
        config: RLConfig,
        *,
        eos: Sequence[int] | None = None,
        vocab: int | None = None,
        drift: DriftMonitor | None = None,
        entropy_range: EntropyMonitor | None = None,
    ) -> None:
        if not prompts:
            raise DataError("no prompts", where="prompts", mend="give at least one")
        self.model, self.head, self.prompts, self.reward, self.config = model, head, prompts, reward, config
        self.vocab, self.drift, self.entropy_range = vocab, drift, entropy_range
        drafter = HeadDrafter(head.attach(model)) if head is not None and config.gamma else None
        self.decoder = Decoder(
            model, drafter, gamma=config.gamma or 1, rule=config.rule, eos=eos, vocab=vocab
        )
        shape: dict[str, Any] = {"betas": config.betas, "weight_decay": config.weight_decay}
        policy = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.updates = {"policy": Updates(policy, prefix="policy", lr=config.lr, **shape)}
        if head is not None:
            for p in head.parameters():
                p.requires_grad_(config.head == "online")
            if config.head == "online":
                weights = dict(head.named_parameters())
                self.updates["head"] = Updates(weights, prefix="head", lr=config.head_lr, **shape)
        self.waiting: deque[Any] = deque()

    @property
    def step(self) -> int:
        """Number of steps made so far."""
        return self.updates["policy"].state.step

    def train(self, run: Run | None = None, *, on_step: Callable[[StepResult], None] | None = None) -> None:
        """Train up to the configured step; with a run, resume from its checkpoint and keep new ones.

        Args:
            run: where figures, alarms and checkpoints go.
            on_step: called with the outcome of each step.

        Raises:
            DataError: a reward is missing or not finite.
            DivergenceError: loss, gradient or logits are not finite; the last checkpoint is whole.
            CheckpointError: the run's checkpoint is of another policy or head.
        """
        if run is not None:
            self.resume(run)
        while self.step < self.config.steps:
            result = self.advance()
            if run is not None:
                alarms = {"alarms": [alarm.text for alarm in result.alarms]} if result.alarms else {}
                run.log(result.step, **result.figures, **alarms)
                if self.step % self.config.checkpoint_every == 0 or self.step == self.config.steps:
                    self.save(run)
            if on_step is not None:
                on_step(result)

    def advance(self) -> StepResult:
        """Make one step: roll out with the present policy, learn from the batch of `staleness` steps ago."""
        while len(self.waiting) <= self.config.staleness:
            self.waiting.append(self.ask(self.step + len(self.waiting)))
        return self.learn(self.ready(self.waiting.popleft()))

    def ask(self, number: int) -> Any:
        """Roll out a batch by its number with the present policy, or begin to; :meth:`ready` waits for it."""
        chosen = self.chosen(number)
        return roll_out(self.decoder, chosen, self.reward, self.config, number=number, version=self.step)

    def ready(self, pending: Any) -> Batch:
        """The batch that :meth:`ask` began."""
        batch: Batch = pending
        return batch

    def learn(self, batch: Batch) -> StepResult:
        """Update the policy, and the head where it is trained along, from one batch."""
        config, began = self.config, time.perf_counter()
        rows, behaviour = self._padded(batch)
        prompt = torch.arange(len(batch.rewards)) // config.group
        gains = group_advantages(torch.tensor(batch.rewards), prompt).to(behaviour.device)
        total = int(rows.mask.sum())
        sums = torch.zeros(3, dtype=torch.float64, device=behaviour.device)
        for updates in self.updates.values():
            updates.zero()
        for start in range(0, len(rows), config.micro_batch):
            part = slice(start, start + config.micro_batch)
            sums += self._objective(rows[part], behaviour[part], gains[part], total)
        figures = {
            "reward": float(torch.tensor(batch.rewards).mean()),
            "entropy": float(sums[0]) / total,
            "clipped": float(sums[1]) / total,
            "kl_behaviour": float(sums[2]) / total,
            "tokens": total,
            "staleness": self.step - batch.version,
        }
        if "head" in self.updates:
            figures |= self._along(rows)
        for name, updates in self.updates.items():
            norm = float(updates.clip(config.grad_clip if name == "policy" else config.head_grad_clip))
            if not torch.isfinite(torch.tensor(norm)):
                raise DivergenceError(
                    f"the gradient of the {name} is {norm:g}",
                    where=f"step {self.step + 1}",
                    mend="lower lr; the last checkpoint is whole",
                )
            figures[f"grad_norm_{name}"] = norm
        for updates in self.updates.values():
            updates.step()
            updates.state.step += 1
        figures |= served_figures(batch.completions)
        figures |= {f"{name}_seconds": value for name, value in batch.seconds.items()}
        figures["learn_seconds"] = time.perf_counter() - began
        return StepResult(self.step, figures, list(self._alarms(batch, figures)))

    # -- parts of a step --------------------------------------------------------------------------------------

    def _objective(self, rows: Rows, behaviour: Tensor, gains: Tensor, total: int) -> Tensor:
        """Backward through a part of a batch; sums of entropy, clipped tokens and behaviour's KL."""
        config = self.config
        logits = self.model(input_ids=rows.tokens, use_cache=False).logits[:, :-1, : self.vocab]
        logp = (logits.float() / config.temperature).log_softmax(-1)
        counts = rows.mask[:, 1:]
        new = logp.gather(-1, rows.tokens[:, 1:, None])[..., 0]
        entropy = -(logp.exp() * logp).sum(-1)
        gap = (new - behaviour[:, 1:]).where(counts, 0.0)
        low, high = config.clip_low, config.clip_high
        surrogate = clipped_objective(gap, gains, clip_low=low, clip_high=high)
        objective = (surrogate + config.entropy_bonus * entropy).where(counts, 0.0).sum() / total
        (-objective).backward()
        with torch.no_grad():
            outside = clipped_tokens(gap, gains, clip_low=low, clip_high=high)
            parts = (entropy, outside.double(), kl_estimate(-gap))
            return torch.stack([part.double().where(counts, 0.0).sum() for part in parts])

    def _along(self, rows: Rows) -> dict[str, float]:
        """Backward of the head's own loss on the rollout."""
        assert self.head is not None
        config = TrainConfig(loss=self.config.head_loss, train_gamma=max(1, self.config.gamma))
        output = lm_head(self.head, temperature=self.config.temperature, vocab_size=self.vocab)
        self.head.train()
        terms = head_loss(self.model, self.head, rows, config, output)
        # Into the head alone: its embedding is the policy's own.
        torch.autograd.backward(terms.loss, inputs=list(self.head.parameters()))
        self.head.eval()
        return {"head_loss": float(terms.loss.detach())}

    def _alarms(self, batch: Batch, figures: Mapping[str, float]) -> Iterator[Alarm]:
        drafted, accepted = served_counts(batch.completions)
        if self.drift is not None and drafted:
            alarm = self.drift.observe(self.step, drafted, accepted)
            if alarm is not None:
                yield alarm
        if self.entropy_range is not None:
            alarm = self.entropy_range.observe(self.step, figures["entropy"])
            if alarm is not None:
                yield alarm

    def chosen(self, step: int) -> list[Sequence[int]]:
        """The prompts of a step: each once an epoch."""
        rows = rows_of_step(step, self.config.prompts, len(self.prompts), self.config.seed)
        return [self.prompts[row] for row in rows.tolist()]

    def _padded(self, batch: Batch) -> tuple[Rows, Tensor]:
        """Rows of prompts and completions, padded on the right, and log-probabilities of who wrote them [rows, n]."""
        texts = [[*p, *c.tokens] for p, c in zip(batch.prompts, batch.completions, strict=True)]
        longest = max(map(len, texts))
        tokens = torch.zeros(len(texts), longest, dtype=torch.long)
        segments, mask = torch.full_like(tokens, -1), torch.zeros_like(tokens, dtype=torch.bool)
        behaviour = torch.zeros(len(texts), longest)
        for row, (text, prompt, completion) in enumerate(
            zip(texts, batch.prompts, batch.completions, strict=True)
        ):
            tokens[row, : len(text)] = torch.tensor(text)
            segments[row, : len(text)] = 0
            mask[row, len(prompt) : len(text)] = True
            behaviour[row, len(prompt) : len(text)] = torch.tensor(completion.logprobs)
        return Rows(tokens, segments, mask).to(self.decoder.device), behaviour.to(self.decoder.device)

    # -- checkpoints ------------------------------------------------------------------------------------------

    def save(self, run: Run) -> None:
        """Write a checkpoint: policy, head, optimisers, and the batches that wait to be learned from.

        Raises:
            RunError: the disk refuses; earlier checkpoints stay as they were.
        """
        self.waiting = deque(self.ready(pending) for pending in self.waiting)
        waiting = json.loads(json.dumps([asdict(batch) for batch in self.waiting]))
        head = self.updates["head"].state.tensors() if "head" in self.updates else None
        self.updates["policy"].state.save(run, head, waiting=waiting)

    def resume(self, run: Run) -> bool:
        """Restore the run's newest checkpoint, and say whether there was one.

        Raises:
            CheckpointError: it is of another policy or head.
        """
        checkpoint, *_ = [updates.resume(run) for updates in self.updates.values()]
        if checkpoint is None:
            return False
        self.waiting = deque(
            Batch(**{**batch, "completions": [Completion(**c) for c in batch["completions"]]})
            for batch in checkpoint.state["waiting"]
        )
        return True
