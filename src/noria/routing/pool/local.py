"""A Hugging Face model in this process as a chat model, which answers waiting requests together."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from noria.core.chat import Answer, Budget, ChatRequest, Failure, Outcome, Prices, Usage
from noria.core.models.loading import LanguageModel
from noria.routing.pool.batching import Batcher


class LocalChat:
    """Answers greedily, or by the request's temperature.

    A model with a chat template reads the conversation through it; one without continues the words of the messages.

    Args:
        opened: the model.
        prices: prices of its tokens; unknown by default.
        batch_size: most requests that are answered together.
        max_tokens: most tokens of an answer, where the request does not say.
        ending: text behind the words of a request, for a model without a chat template.
        budget: limit on costs, if any; it needs prices.
    """

    def __init__(
        self,
        opened: LanguageModel,
        *,
        prices: Prices | None = None,
        batch_size: int = 32,
        max_tokens: int = 256,
        ending: str = "\n",
        budget: Budget | None = None,
    ) -> None:
        self.opened, self.prices, self.max_tokens = opened, prices or Prices(), max_tokens
        self.ending, self.budget = ending, budget
        self._batcher: Batcher[ChatRequest, Outcome] = Batcher(self._batch, key=_key, most=batch_size)

    async def ask(self, request: ChatRequest) -> Outcome:
        """Answer one request, in a batch with others."""
        if self.budget is None:
            return await self._batcher.ask(request)
        # A model in this process reads no more than it is given, so the estimate is of the longest answer.
        reserved = self.budget.reserve(self.prices, {"max_tokens": self.max_tokens} | request.wire(""))
        if reserved is None:
            return Failure(
                "budget", f"{self.budget.spent:.4g} of {self.budget.limit:.4g} is spent", attempts=0
            )
        cost: float | None = 0.0
        try:
            outcome = await self._batcher.ask(request)
            cost = outcome.cost if isinstance(outcome, Answer) else 0.0
        finally:
            self.budget.settle(reserved, cost)
        return outcome

    async def _batch(self, requests: Sequence[ChatRequest]) -> list[Outcome]:
        left = threading.Event()
        working = asyncio.ensure_future(asyncio.to_thread(self._answers, requests, left))
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            left.set()
            await asyncio.wait([working])  # two threads must not share the tokenizer
            raise
        except (RuntimeError, ValueError, torch.OutOfMemoryError) as error:
            message = " ".join(str(error).split())[:200]
            return [Failure("server", message) for _ in requests]

    def _answers(self, requests: Sequence[ChatRequest], left: threading.Event) -> list[Outcome]:
        """Answer requests of one kind together; a prompt that is too long keeps no other from its answer."""
        tokenizer = self.opened.tokenizer
        room = int(getattr(self.opened.model.config, "max_position_embeddings", 2**20))
        prompts = [self._text(request) for request in requests]
        lengths = [len(ids) for ids in tokenizer(prompts, add_special_tokens=False)["input_ids"]]
        fits = [length < room for length in lengths]
        answers = iter(
            self._generate(
                [r for r, fit in zip(requests, fits, strict=True) if fit],
                [p for p, fit in zip(prompts, fits, strict=True) if fit],
                room,
                left,
            )
            if any(fits)
            else ()
        )
        return [
            next(answers) if fit else Failure("request", "the prompt is longer than the model reads")
            for fit in fits
        ]

    def _generate(
        self, requests: Sequence[ChatRequest], prompts: Sequence[str], room: int, left: threading.Event
    ) -> list[Outcome]:
        began, own = time.perf_counter(), requests[0]
        model, tokenizer = self.opened.model, self.opened.tokenizer
        side, pad = tokenizer.padding_side, tokenizer.pad_token
        tokenizer.padding_side = "left"
        tokenizer.pad_token = pad or tokenizer.eos_token
        try:
            rows = tokenizer(
                prompts,
                return_tensors="pt",
                padding=True,
                return_token_type_ids=False,
                add_special_tokens=False,
            )
        finally:
            tokenizer.padding_side = side
        length = min(own.max_tokens or self.max_tokens, room - rows["input_ids"].shape[1])
        if own.seed is not None:
            torch.manual_seed(own.seed)
        warm = bool(own.temperature)
        with torch.inference_mode():
            out = model.generate(
                **{name: t.to(model.device) for name, t in rows.items()},
                max_new_tokens=length,
                do_sample=warm,
                temperature=own.temperature if warm else None,
                top_p=own.top_p if warm else None,
                top_k=None,
                pad_token_id=tokenizer.pad_token_id,
                stopping_criteria=[_Left(left)],
                **({"stop_strings": list(own.stop), "tokenizer": tokenizer} if own.stop else {}),
            )
        start = rows["input_ids"].shape[1]
        seconds = time.perf_counter() - began
        return [
            replace(self._outcome(tokens[start:].tolist(), int(mask.sum()), own), seconds=seconds)
            for tokens, mask in zip(out, rows["attention_mask"], strict=True)
        ]

    def _text(self, request: ChatRequest) -> str:
        tokenizer = self.opened.tokenizer
        if getattr(tokenizer, "chat_template", None):
            chat = [{"role": m.role, "content": m.text} for m in request.messages]
            return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
        return "\n".join(message.text for message in request.messages) + self.ending

    def _outcome(self, tokens: list[int], prompt: int, request: ChatRequest) -> Answer:
        tokenizer = self.opened.tokenizer
        ends = {tokenizer.eos_token_id, tokenizer.pad_token_id}
        count = next((n for n, token in enumerate(tokens) if token in ends), len(tokens))
        text = str(tokenizer.decode(tokens[:count], skip_special_tokens=True))
        stopped = count < len(tokens) or any(stop in text for stop in request.stop)
        for stop in request.stop:
            text = text.split(stop)[0]
        usage = Usage(prompt, count)
        finish = "stop" if stopped else "length"
        return Answer(text, finish, usage, self.prices.cost(usage), model=self.opened.name)


@dataclass(frozen=True)
class _Left:
    """Ends a generation once nobody waits for it."""

    left: threading.Event

    def __call__(self, tokens: torch.Tensor, scores: object, **more: object) -> torch.Tensor:
        return torch.full((len(tokens),), self.left.is_set(), device=tokens.device)


def _key(request: ChatRequest) -> tuple[object, ...]:
    """Settings that the requests of a batch have in common."""
    return request.temperature, request.top_p, request.max_tokens, request.seed, request.stop
