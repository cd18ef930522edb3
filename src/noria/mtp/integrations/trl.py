"""Drafted rollouts for TRL's GRPO: pass `Rollouts(head)` as the trainer's `rollout_func`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from noria.core.errors import ConfigError, DivergenceError
from noria.mtp.decoder import Completion, Decoder, Request
from noria.mtp.drafter import HeadDrafter
from noria.mtp.heads import MTPHead
from noria.mtp.names import Rule
from noria.mtp.sampling import SamplingParams, Streams
from noria.mtp.serving import refuse_lossy

__all__ = ["Rollouts"]


class Rollouts:
    """What `GRPOTrainer(rollout_func=…)` calls: one completion for each prompt that it is given.

    The head is frozen and reads the policy's own embedding and output layer, so it is never out of step with them. The
    trainer logs `rollout/accept_length` and `rollout/acceptance_1`, ….

    Args:
        head: of the policy; a head of its base model, where PEFT trains adapters.
        gamma: drafts a round.
        rule: how they are verified.
        vocab: how many logits are tokens.
        batch_size: requests decoded together; all by default.
        settings: of an engine, looked through for ones that change the policy's law.
        allow_lossy: let those through.

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
        settings: Mapping[str, Any] | None = None,
        allow_lossy: bool = False,
    ) -> None:
        refuse_lossy(settings or {}, allow_lossy=allow_lossy)
        self.head, self.gamma, self.rule, self.vocab = head, gamma, rule, vocab
        self.batch_size = batch_size
        self.calls = 0
        self.last: Sequence[Completion] = ()
        for p in head.parameters():
            p.requires_grad_(False)

    def __call__(self, prompts: Sequence[Any], trainer: Any) -> dict[str, Any]:
        """Complete the prompts, texts or chats.

        Raises:
            ConfigError: the trainer has a setting that changes text otherwise.
            DivergenceError: the policy's logits are not finite.
        """
        model = trainer.accelerator.unwrap_model(trainer.model)
        model = model.get_base_model() if hasattr(model, "get_base_model") else model
        args, tokenizer = trainer.args, trainer.processing_class
        if (penalty := getattr(args, "repetition_penalty", 1.0)) not in (None, 1.0):
            raise ConfigError(
                f"drafted decoding does not know repetition_penalty={penalty}",
                where="GRPOConfig",
                mend="leave it at 1",
            )
        params = SamplingParams(
            temperature=args.temperature,
            top_k=max(0, args.top_k or 0),
            top_p=1.0 if args.top_p is None else args.top_p,
            min_p=args.min_p or 0.0,
        )
        self.calls += 1
        call = (int(args.seed) << 32) + (self.calls << 12) + trainer.accelerator.process_index
        seeds = Streams.derived(call, len(prompts)).seeds.tolist()
        texts = [_ids(tokenizer, prompt) for prompt in prompts]
        requests = [
            Request(ids, args.max_completion_length, params, seed)
            for ids, seed in zip(texts, seeds, strict=True)
        ]
        training = model.training
        eos = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else None
        drafter, done = HeadDrafter(self.head), []
        size = self.batch_size or len(requests)
        try:
            with trainer.accelerator.autocast():  # as the trainer's own forward
                decoder = Decoder(model, drafter, gamma=self.gamma, rule=self.rule, eos=eos, vocab=self.vocab)
                for start in range(0, len(requests), size):
                    done += decoder.generate(requests[start : start + size])
        finally:
            model.train(training)
        if any(c.finish == "invalid" for c in done):
            raise DivergenceError("the policy's logits are not finite", where=f"rollout {self.calls}")
        self.last = done
        self._log(trainer, done, training)
        return {
            "prompt_ids": texts,
            "completion_ids": [c.tokens for c in done],
            "logprobs": [c.logprobs for c in done],
        }

    def _log(self, trainer: Any, done: Sequence[Completion], training: bool) -> None:
        metrics = getattr(trainer, "_metrics", None)
        if metrics is None:
            return
        logged = metrics["train" if training else "eval"]
        length = 1.0
        for place in range(self.gamma):
            drafted = sum(c.drafted[place] for c in done)
            if drafted:
                rate = sum(c.accepted[place] for c in done) / drafted
                length += rate
                logged[f"rollout/acceptance_{place + 1}"].append(rate)
        logged["rollout/accept_length"].append(length)


def _ids(tokenizer: Any, prompt: Any) -> list[int]:
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
