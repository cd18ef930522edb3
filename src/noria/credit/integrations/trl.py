"""Credit of tokens in TRL's GRPO, through the bridge of the core.

Where TRL computes the log-probabilities of the policy that wrote the completions (vLLM, several iterations a
generation), attention is read in that pass, so the tap is the only cost. Elsewhere one forward pass is added.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from noria.core.training.trl import TokenBatch
from noria.credit.config import CreditConfig
from noria.credit.credit import TokenCredit
from noria.credit.responses.answers import Finder, finder
from noria.credit.responses.traces import Traces, completion_traces
from noria.credit.signals import TokenScores, join_scores

PASS = "_get_per_token_logps_and_entropies"
"""TRL's method that scores whole completions, in parts of a batch."""

BLIND = ("flow", "attention", "rollout", "attention_flow", "fai")
"""Signals whose scores do not depend on who wrote a token, the policy or a tool."""


class RolloutCredit:
    """The token credit of a trainer: `ComponentGRPOTrainer(token_credit=credit, around=credit.around)`.

    It logs `credit/fallback`, `credit/mean_weight`, `credit/advantage_on_chosen` and the figures of the signal.

    Args:
        config: settings of the credit.
        find: finder of answers, in place of the one that the configuration names.
    """

    def __init__(self, config: CreditConfig, *, find: Finder | None = None) -> None:
        self.config, self.find = config, find or finder(config.answer)
        self.credit: TokenCredit | None = None
        self._kept: tuple[Traces, TokenScores] | None = None
        self.passes_saved = 0

    def __call__(self, batch: TokenBatch) -> Tensor:
        """Weights of a batch, [rows, completion tokens]."""
        trainer, credit = batch.trainer, self._credit(batch.trainer)
        length = batch.completion_ids.shape[1]
        tokens = torch.cat([batch.prompt_ids, batch.completion_ids], 1)
        gains = batch.advantages if batch.advantages.ndim == 1 else batch.advantages.sum(-1)
        rows = len(tokens)
        training = bool(trainer.model.training)
        size = trainer.num_generations if training else trainer.num_generations_eval
        first = int(trainer.accelerator.process_index) * rows
        traces = self._traces(
            trainer,
            tokens,
            torch.cat([batch.prompt_mask, batch.completion_mask], 1),
            batch.mask,
            group=(torch.arange(rows, device=tokens.device) + first) // size,
            correct=gains > 0,
        )
        step = int(trainer.state.global_step)
        scored = self._read(traces, credit)
        if scored is None:
            scored = credit.score(trainer.model, traces, step=step)
        weighed = credit.weigh(scored, traces, gains, step=step)
        metrics = trainer._metrics["train" if training else "eval"]
        for name, value in weighed.metrics.items():
            metrics[name].append(value)
        return weighed.weights[:, -length:]

    @contextlib.contextmanager
    def around(self, trainer: Any) -> Iterator[None]:
        """Read attention in the trainer's own pass over the completions, if there is one in the block."""
        self._kept = None
        original = getattr(trainer, PASS)
        if not self._credit(trainer).reads or not _scores_policy(trainer):
            yield
            return
        calls = 0

        def tapped(
            model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, **options: Any
        ) -> Any:
            nonlocal calls
            calls += 1
            run = partial(original, model, input_ids, attention_mask, logits_to_keep, **options)
            # The first call is of the policy that wrote; a reference model's call comes after it.
            if calls > 1 or model is not trainer.model:
                return run()
            valid = attention_mask.bool()
            traces = self._traces(trainer, input_ids, valid, valid[:, -logits_to_keep:])
            with self._tap(trainer, traces, options.get("batch_size") or len(input_ids)):
                return run()

        setattr(trainer, PASS, tapped)
        try:
            yield
        finally:
            delattr(trainer, PASS)

    @contextlib.contextmanager
    def _tap(self, trainer: Any, traces: Traces, size: int) -> Iterator[None]:
        """Read the passes of the block, `size` rows each, and keep their scores if all rows were read."""
        credit = self._credit(trainer)
        parts: list[TokenScores] = []

        def part() -> slice:
            return slice(len(parts) * size, (len(parts) + 1) * size)

        def read(results: dict[str, Any]) -> None:
            parts.append(credit.from_read(results["read"], traces.rows(part())))

        length = traces.tokens.shape[1]
        with credit.tap(trainer.model, lambda: traces.sequence[part()], length=length, on_pass=read):
            yield
        if sum(len(scored.fallback) for scored in parts) == len(traces.tokens):
            self._kept = (traces, join_scores(parts))

    def _read(self, traces: Traces, credit: TokenCredit) -> TokenScores | None:
        """Scores of the tapped pass, counted again over what the policy wrote; None where there are none."""
        kept, self._kept = self._kept, None
        if kept is None or not torch.equal(kept[0].tokens, traces.tokens):
            return None
        tapped, scored = kept
        # The tapped pass took tokens of tools for the policy's own: TRL tells them apart only later.
        blind = self.config.signal in BLIND and not self.config.emission
        if not torch.equal(tapped.response, traces.response) and not (
            blind and torch.equal(tapped.known, traces.known) and torch.equal(tapped.answer, traces.answer)
        ):
            return None
        self.passes_saved += 1
        counted = credit.counted(traces, scored.fallback)
        return replace(scored, scores=scored.scores.where(counted, 0.0), counted=counted)

    def _traces(self, trainer: Any, tokens: Tensor, valid: Tensor, written: Tensor, **more: Any) -> Traces:
        return completion_traces(tokens, valid, written, _tokenizer(trainer), self.find, self.config, **more)

    def _credit(self, trainer: Any) -> TokenCredit:
        if self.credit is None:
            self.credit = TokenCredit(self.config, replacement=int(_tokenizer(trainer).pad_token_id))
        return self.credit


def _tokenizer(trainer: Any) -> Any:
    return getattr(trainer.processing_class, "tokenizer", trainer.processing_class)


def _scores_policy(trainer: Any) -> bool:
    """Whether TRL will compute log-probabilities of the policy that writes, which it does where that may change."""
    args = trainer.args
    every = args.steps_per_generation * trainer.num_iterations
    served = trainer.use_vllm and getattr(trainer, "vllm_importance_sampling_correction", False)
    return bool(args.gradient_accumulation_steps % every != 0 or served)
