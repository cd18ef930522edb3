"""Drafted rollouts for TRL's GRPO: pass `Rollouts(head)` as the trainer's `rollout_func`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch.distributed.tensor import DTensor

from noria.core.errors import ConfigError, DivergenceError
from noria.mtp.acceptance.sampling import SamplingParams
from noria.mtp.acceptance.streams import Streams
from noria.mtp.decoding.decoder import Completion, Decoder, Request, served_counts, served_figures
from noria.mtp.decoding.drafter import HeadDrafter
from noria.mtp.engines.engine_flags import refuse_lossy
from noria.mtp.heads.head import MTPHead
from noria.mtp.rl.monitors import DriftMonitor
from noria.mtp.types import Rule


class Rollouts:
    """Drafted rollouts for `GRPOTrainer(rollout_func=…)`: one completion for each prompt.

    The head is frozen and reads the embedding and output layer of the policy that is trained, so it is never out of
    step with them. The trainer logs `rollout/accept_length` and `rollout/prefix_rate_1`, …. Random numbers depend on
    the trainer's seed and step alone, so a run that resumes from a checkpoint draws what it would have drawn.

    Args:
        head: head of the policy, or of its base model where PEFT trains adapters.
        gamma: drafts of a round.
        rule: how drafts are verified.
        vocab: how many logits are tokens.
        batch_size: requests decoded together; all by default.
        drift: compares served acceptance with what was predicted; its alarms are warnings.
        settings: settings of an engine, which are searched for ones that change the policy's law.
        allow_lossy: let such settings through.

    Raises:
        ConfigError: a lossy setting that was not asked for by name.
    """

    def __init__(
        self,
        head: MTPHead,
        *,
        gamma: int = 3,
        rule: Rule = "rejection",
        vocab: int | None = None,
        batch_size: int | None = None,
        drift: DriftMonitor | None = None,
        settings: Mapping[str, Any] | None = None,
        allow_lossy: bool = False,
    ) -> None:
        refuse_lossy(settings or {}, allow_lossy=allow_lossy)
        self.head, self.gamma, self.rule, self.vocab = head, gamma, rule, vocab
        self.batch_size, self.drift = batch_size, drift
        self.calls = 0
        self.last: Sequence[Completion] = ()
        self._at: tuple[int, bool] | None = None
        self._again = 0
        for p in head.parameters():
            p.requires_grad_(False)

    def __call__(self, prompts: Sequence[Any], trainer: Any) -> dict[str, Any]:
        """Complete the prompts, texts or chats.

        Raises:
            ConfigError: the trainer has a setting that changes text otherwise, or shards the policy's weights.
            DivergenceError: the policy's logits are not finite.
        """
        model = trainer.accelerator.unwrap_model(trainer.model)
        model = model.get_base_model() if hasattr(model, "get_base_model") else model
        args, training = trainer.args, model.training
        params = _params(args)
        if any(hasattr(p, "ds_id") or isinstance(p, DTensor) for p in model.parameters()):
            raise ConfigError(
                "the policy's weights are sharded over processes (ZeRO-3 or FSDP)",
                where="GRPOConfig",
                mend="use DDP or ZeRO-2, or serve the policy with an engine",
            )
        seeds = self._seeds(trainer, len(prompts), training)
        texts = _ids(trainer, prompts)
        requests = [
            Request(ids, args.max_completion_length, params, seed)
            for ids, seed in zip(texts, seeds, strict=True)
        ]
        drafter, done = HeadDrafter(self.head.attach(model)), []
        size = self.batch_size or len(requests)
        try:
            with trainer.accelerator.autocast():  # as the trainer's own forward
                decoder = Decoder(
                    model, drafter, gamma=self.gamma, rule=self.rule, eos=_ends(trainer), vocab=self.vocab
                )
                for start in range(0, len(requests), size):
                    done += decoder.generate(requests[start : start + size])
        finally:
            model.train(training)
        if any(c.finish == "invalid" for c in done):
            raise DivergenceError("the policy's logits are not finite", where=f"rollout {self.calls}")
        self.last = done
        self._watch(trainer, done, training)
        return {
            "prompt_ids": texts,
            "completion_ids": [c.tokens for c in done],
            "logprobs": [c.logprobs for c in done],
        }

    def _seeds(self, trainer: Any, number: int, training: bool) -> list[int]:
        self.calls += 1
        step = int(trainer.state.global_step)
        self._again = self._again + 1 if self._at == (step, training) else 0
        self._at = (step, training)
        path = (step, int(training), self._again, trainer.accelerator.process_index)
        seeds: list[int] = Streams.derived(int(trainer.args.seed), number, path=path).seeds.tolist()
        return seeds

    def _watch(self, trainer: Any, done: Sequence[Completion], training: bool) -> None:
        drafted, accepted = served_counts(done)
        if self.drift is not None and training and drafted:
            alarm = self.drift.observe(int(trainer.state.global_step), drafted, accepted)
            if alarm is not None:
                warnings.warn(alarm.text, stacklevel=3)
        metrics = getattr(trainer, "_metrics", None)
        if metrics is None:
            return
        logged = metrics["train" if training else "eval"]
        for name, value in (served_figures(done) or {"accept_length": 1.0}).items():
            logged[f"rollout/{name}"].append(value)


def _params(args: Any) -> SamplingParams:
    """Temperature and filters of the trainer's configuration.

    Raises:
        ConfigError: it has more than temperature and filters.
    """
    for name, neutral in (("repetition_penalty", (None, 1.0)), ("generation_kwargs", (None, {}))):
        if (value := getattr(args, name, None)) not in neutral:
            raise ConfigError(
                f"drafted decoding does not know {name}={value}", where="GRPOConfig", mend="leave it out"
            )
    return SamplingParams(
        temperature=args.temperature,
        top_k=max(0, args.top_k or 0),
        top_p=1.0 if args.top_p is None else args.top_p,
        min_p=args.min_p or 0.0,
    )


def _ends(trainer: Any) -> list[int] | None:
    """The trainer's end tokens, by which it tells a completion that was cut off."""
    ends = getattr(trainer, "eos_token_ids", None)
    if ends is not None:
        return list(ends)
    end = trainer.processing_class.eos_token_id
    return None if end is None else [end]


def _ids(trainer: Any, prompts: Sequence[Any]) -> list[list[int]]:
    """Prompts as the trainer itself would tokenize them."""
    tokenizer = trainer.processing_class
    options = dict(getattr(trainer, "chat_template_kwargs", None) or {})
    if getattr(trainer, "chat_template", None):
        options["chat_template"] = trainer.chat_template
    if getattr(trainer, "tools", None):
        options["tools"] = trainer.tools
    return [
        list(tokenizer(prompt)["input_ids"])
        if isinstance(prompt, str)
        else list(
            tokenizer.apply_chat_template(
                prompt, add_generation_prompt=True, tokenize=True, return_dict=True, **options
            )["input_ids"]
        )
        for prompt in prompts
    ]
