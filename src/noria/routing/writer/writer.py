"""A language model as the router that writes: turns of its own, tokens and their probabilities kept, against a pool."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noria.routing.tables.table import Question
from noria.routing.writer.environment import Environment, Rollout
from noria.routing.writer.grammar import Span

__all__ = ["PlayedRollout", "Writer", "credit_of", "play"]


@dataclass
class PlayedRollout:
    """A rollout and its tokens.

    Attributes:
        rollout: what happened.
        prompt: tokens of the prompt.
        tokens: of the completion, the environment's with the router's.
        ours: which of them the router wrote.
        logprobs: of each, 0 for the environment's.
        turns: (first token, tokens) of each turn of the router's.
    """

    rollout: Rollout
    prompt: list[int]
    tokens: list[int] = field(default_factory=list)
    ours: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    turns: list[tuple[int, list[int]]] = field(default_factory=list)


class Writer:
    """Writes turns with a causal language model: what was written and its log-probabilities, by a seed of its own.

    Args:
        model: a Hugging Face causal language model.
        tokenizer: its own.
        stops: texts that end a turn.
        turn_tokens: of a turn at most.
        batch_size: rows decoded together.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        stops: Sequence[str],
        *,
        turn_tokens: int = 512,
        batch_size: int = 64,
    ) -> None:
        self.model, self.tokenizer, self.stops = model, tokenizer, tuple(stops)
        self.turn_tokens, self.batch_size = turn_tokens, batch_size
        ends = getattr(model.generation_config, "eos_token_id", None)
        ends = [ends] if isinstance(ends, int) else list(ends or [])
        self.ends = {token for token in [*ends, tokenizer.eos_token_id] if token is not None}

    @torch.no_grad()
    def write(
        self,
        prefixes: Sequence[Sequence[int]],
        *,
        temperature: float,
        seed: int,
        room: Sequence[int] | None = None,
    ) -> list[tuple[list[int], list[float]]]:
        """A turn after each prefix: its tokens and their log-probabilities at this temperature; 0 is greedy.

        Args:
            prefixes: tokens so far.
            temperature: of the draws.
            seed: of the draws; a row's depend on it and on the row's place alone.
            room: tokens that each may have at most.
        """
        found: list[tuple[list[int], list[float]]] = []
        for start in range(0, len(prefixes), self.batch_size):
            part = prefixes[start : start + self.batch_size]
            limits = [self.turn_tokens] * len(part)
            if room is not None:
                limits = [min(a, b) for a, b in zip(limits, room[start : start + len(part)], strict=True)]
            found += self._batch(part, temperature, np.random.default_rng([seed, start]), limits)
        return found

    def _batch(
        self,
        prefixes: Sequence[Sequence[int]],
        temperature: float,
        generator: np.random.Generator,
        limits: Sequence[int],
    ) -> list[tuple[list[int], list[float]]]:
        device, longest = self.model.device, max(map(len, prefixes))
        rows = torch.zeros(len(prefixes), longest, dtype=torch.long)
        mask = torch.zeros_like(rows)
        for n, prefix in enumerate(prefixes):  # padded on the left
            rows[n, longest - len(prefix) :] = torch.tensor(prefix)
            mask[n, longest - len(prefix) :] = 1
        rows, mask = rows.to(device), mask.to(device)
        written: list[tuple[list[int], list[float]]] = [([], []) for _ in prefixes]
        alive = [limit > 0 for limit in limits]
        cache, place = None, (mask.cumsum(1) - 1).clamp(min=0)
        # One uniform number a row and token, so that a row's draws do not depend on who else is still writing.
        while any(alive):
            out = self.model(
                input_ids=rows, attention_mask=mask, position_ids=place, past_key_values=cache, use_cache=True
            )
            cache = out.past_key_values
            logits = out.logits[:, -1].float()
            token, logp = _draw(logits, temperature, generator)
            for n, (own, chance) in enumerate(written):
                if alive[n]:
                    own.append(int(token[n]))
                    chance.append(float(logp[n]))
                    alive[n] = len(own) < limits[n] and not self._ended(own)
            rows = token[:, None].to(device)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            place = place[:, -1:] + 1
        return written

    def _ended(self, tokens: list[int]) -> bool:
        if tokens[-1] in self.ends:
            return True
        tail = self.tokenizer.decode(tokens[-16:])
        return any(stop in tail for stop in self.stops)

    def text(self, tokens: Sequence[int]) -> str:
        """Of a turn, without what ends it."""
        kept = [token for token in tokens if token not in self.ends]
        return str(self.tokenizer.decode(kept))

    def ids(self, text: str) -> list[int]:
        """Tokens of a text."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def _draw(logits: Tensor, temperature: float, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A token a row, and its log-probability."""
    if temperature <= 0:
        token = logits.argmax(-1)
        return token.cpu(), logits.log_softmax(-1).gather(-1, token[:, None])[:, 0].cpu()
    logp = (logits / temperature).log_softmax(-1)
    u = torch.from_numpy(generator.random(len(logits))).to(logp.device)
    # The first token whose cumulated probability passes u.
    total = logp.double().exp().cumsum(-1)
    token = torch.searchsorted(total, (u * total[:, -1])[:, None]).clamp(max=logits.shape[-1] - 1)
    return token[:, 0].cpu(), logp.gather(-1, token)[:, 0].cpu()


async def play(
    writer: Writer,
    environment: Environment,
    questions: Sequence[Question],
    prompts: Sequence[Sequence[int]],
    *,
    temperature: float,
    seed: int,
    completion_tokens: int,
    on_turn: Callable[[int], None] | None = None,
) -> list[PlayedRollout]:
    """Play a rollout of every question to its end, all of them turn by turn together.

    Args:
        writer: the router.
        environment: with the pool.
        questions: what is asked.
        prompts: the tokens that each rollout begins with.
        temperature: of the router's draws.
        seed: of them.
        completion_tokens: of a rollout at most, information with it; one that is cut there is broken.
        on_turn: told how many rollouts are still under way.
    """
    played = [PlayedRollout(Rollout(q), list(p)) for q, p in zip(questions, prompts, strict=True)]
    for turn in range(environment.limits.calls + 2):
        open_ = [p for p in played if not p.rollout.done]
        if not open_:
            break
        if on_turn:
            on_turn(len(open_))
        written = await asyncio.to_thread(
            writer.write,
            [[*p.prompt, *p.tokens] for p in open_],
            temperature=temperature,
            seed=seed * 64 + turn,
            room=[completion_tokens - len(p.tokens) for p in open_],
        )
        texts = []
        for p, (tokens, logprobs) in zip(open_, written, strict=True):
            p.turns.append((len(p.tokens), tokens))
            p.tokens += tokens
            p.ours += [True] * len(tokens)
            p.logprobs += logprobs
            texts.append(writer.text(tokens))
        told = await environment.step_all([p.rollout for p in open_], texts)
        for p, information in zip(open_, told, strict=True):
            if information is None:
                continue
            ids = writer.ids(information)
            p.tokens += ids
            p.ours += [False] * len(ids)
            p.logprobs += [0.0] * len(ids)
            if len(p.tokens) >= completion_tokens:
                p.rollout.done = True
    for p in played:
        p.tokens, p.ours = p.tokens[:completion_tokens], p.ours[:completion_tokens]
        p.logprobs = p.logprobs[:completion_tokens]
    return played


def credit_of(played: PlayedRollout, writer: Writer, names: Sequence[str]) -> Tensor:
    """Which tokens earn which component [tokens, components]: form the tags, thrift the names, answer all of ours.

    A component none of whose tokens is there goes to all.
    """
    credit = torch.zeros(len(played.tokens), len(names))
    ours = torch.tensor(played.ours)
    for (first, tokens), turn in zip(played.turns, played.rollout.turns, strict=False):
        ends = _ends(writer, tokens)
        for n, name in enumerate(names):
            kinds = {"form": ("tag",), "thrift": ("name",)}.get(name)
            if kinds is None:
                continue
            for span in turn.spans:
                if span.kind in kinds:
                    for place in _tokens_of(span, ends):
                        if first + place < len(credit):
                            credit[first + place, n] = 1.0
    for n, name in enumerate(names):
        if name not in ("form", "thrift") or not credit[:, n].any():
            credit[:, n] = 1.0
    return credit * ours[:, None]


def _ends(writer: Writer, tokens: Sequence[int]) -> list[int]:
    """Characters of the turn's text up to and with each token."""
    return [len(writer.text(tokens[: n + 1])) for n in range(len(tokens))]


def _tokens_of(span: Span, ends: Sequence[int]) -> range:
    """Tokens that share a character with a span."""
    first = next((n for n, end in enumerate(ends) if end > span.start), len(ends))
    last = next((n for n, end in enumerate(ends) if end >= span.stop), len(ends) - 1)
    return range(first, last + 1)
