"""Credit of tokens in TRL's GRPO, through the bridge of the core.

```python
from noria.core.training.trl import ComponentGRPOTrainer
from noria.credit.config import named_credit
from noria.credit.integrations.trl import RolloutCredit

credit = RolloutCredit(named_credit("flow"))
trainer = ComponentGRPOTrainer(model, reward, args=args, train_dataset=data, token_credit=credit, around=credit.around)
```

Where TRL computes the log-probabilities of the policy that wrote the completions (vLLM, several iterations a
generation), attention is read in that pass, so the tap is all it costs. Where it does not, one forward of our own is
added.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from noria.core.training.trl import TokenBatch
from noria.credit.config import CreditConfig
from noria.credit.credit import Scored, TokenCredit, join
from noria.credit.responses.answers import Finder, finder
from noria.credit.responses.traces import Traces, find_answers

__all__ = ["RolloutCredit"]

PASS = "_get_per_token_logps_and_entropies"
"""TRL's method that scores whole completions, in parts of a batch."""


class RolloutCredit:
    """What `ComponentGRPOTrainer(token_credit=…, around=….around)` calls.

    It logs `credit/fallback`, `credit/mean_weight`, `credit/advantage_on_chosen` and what else the signal has to say.

    Args:
        config: which credit.
        find: a finder of answers, instead of the configuration's name of one.
    """

    def __init__(self, config: CreditConfig, *, find: Finder | None = None) -> None:
        self.config, self.find = config, find or finder(config.answer)
        self.credit: TokenCredit | None = None
        self._kept: tuple[Tensor, Scored] | None = None
        self.passes_saved = 0

    def __call__(self, batch: TokenBatch) -> Tensor:
        """Weights [rows, completion tokens] of a batch."""
        trainer, credit = batch.trainer, self._credit(batch.trainer)
        length = batch.completion_ids.shape[1]
        tokens = torch.cat([batch.prompt_ids, batch.completion_ids], 1)
        real = batch.completion_ids != _tokenizer(trainer).pad_token_id
        gains = batch.advantages if batch.advantages.ndim == 1 else batch.advantages.sum(-1)
        rows = len(tokens)
        training = bool(trainer.model.training)
        size = trainer.num_generations if training else trainer.num_generations_eval
        first = int(trainer.accelerator.process_index) * rows
        traces = self._traces(
            trainer,
            tokens,
            torch.cat([batch.prompt_mask, real | batch.mask], 1),
            batch.mask,
            group=(torch.arange(rows, device=tokens.device) + first) // size,
            correct=gains > 0,
        )
        step = int(trainer.state.global_step)
        scored = self._read(traces, credit)
        if scored is None:
            scored = credit.score(trainer.model, traces, step=step)
        found = credit.weigh(scored, traces, gains, step=step)
        metrics = trainer._metrics["train" if training else "eval"]
        for name, value in found.metrics.items():
            metrics[name].append(value)
        return found.weights[:, -length:]

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
            # The first is of the policy that wrote; a reference model's comes after it.
            if calls > 1 or model is not trainer.model:
                return original(model, input_ids, attention_mask, logits_to_keep, **options)
            return self._tapped(trainer, original, model, input_ids, attention_mask, logits_to_keep, options)

        setattr(trainer, PASS, tapped)
        try:
            yield
        finally:
            delattr(trainer, PASS)

    def _tapped(
        self,
        trainer: Any,
        original: Any,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        length: int,
        options: dict[str, Any],
    ) -> Any:
        credit, valid = self._credit(trainer), attention_mask.bool()
        traces = self._traces(trainer, input_ids, valid, valid[:, -length:])
        size = options.get("batch_size") or len(input_ids)
        parts: list[Scored] = []

        def part() -> slice:
            return slice(len(parts) * size, (len(parts) + 1) * size)

        def read(results: dict[str, Any]) -> None:
            parts.append(credit.from_read(results["read"], traces.rows(part())))

        with credit.tap(model, lambda: traces.sequence[part()], length=input_ids.shape[1], on_pass=read):
            output = original(model, input_ids, attention_mask, length, **options)
        if sum(len(p.fallback) for p in parts) == len(input_ids):
            self._kept = (input_ids, join(parts))
        return output

    def _read(self, traces: Traces, credit: TokenCredit) -> Scored | None:
        """Scores of the tapped pass, counted anew over what the policy wrote; None where there are none."""
        kept, self._kept = self._kept, None
        if kept is None or not torch.equal(kept[0], traces.tokens):
            return None
        scored = kept[1]
        counted = credit.counted(traces, scored.fallback)
        if scored.shares is not None and not torch.equal(counted, scored.counted):
            return None  # tokens of tools were ranked among the policy's own
        self.passes_saved += 1
        return replace(scored, scores=scored.scores.where(counted, 0.0), counted=counted)

    def _traces(self, trainer: Any, tokens: Tensor, valid: Tensor, written: Tensor, **more: Any) -> Traces:
        length = written.shape[1]
        question, response = valid.clone(), torch.zeros_like(valid)
        question[:, -length:] = False
        response[:, -length:] = written
        tokenizer = _tokenizer(trainer)
        responses = [row[-length:][own] for row, own in zip(tokens, valid[:, -length:], strict=True)]
        spans = find_answers(responses, tokenizer, self.find)
        return Traces.from_masks(
            tokens,
            valid,
            question,
            response,
            spans,
            skip=tokenizer.all_special_ids if self.config.skip_special else (),
            longest_answer=self.config.longest_answer,
            **more,
        )

    def _credit(self, trainer: Any) -> TokenCredit:
        if self.credit is None:
            self.credit = TokenCredit(self.config, replacement=int(_tokenizer(trainer).pad_token_id))
        return self.credit


def _tokenizer(trainer: Any) -> Any:
    return getattr(trainer.processing_class, "tokenizer", trainer.processing_class)


def _scores_policy(trainer: Any) -> bool:
    """Whether TRL will compute log-probabilities of the policy that writes, as it does where that may change."""
    args = trainer.args
    every = args.steps_per_generation * trainer.num_iterations
    served = trainer.use_vllm and getattr(trainer, "vllm_importance_sampling_correction", False)
    return bool(args.gradient_accumulation_steps % every != 0 or served)
