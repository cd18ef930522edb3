"""A language model as the router that writes: turns of its own, tokens and their probabilities kept, against a pool."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noria.routing.tables.table import Question
from noria.routing.writer.environment import Environment, Rollout
from noria.routing.writer.grammar import Span

__all__ = ["PlayedRollout", "Writer", "credit_of", "play"]

SPANS = {"form": "tag", "thrift": "name"}
"""Kind of span that a component is about."""


@dataclass
class PlayedRollout:
    """A rollout and its tokens.

    Attributes:
        rollout: what was said by whom.
        prompt: tokens of the prompt.
        tokens: tokens of the completion, the environment's and the router's.
        ours: whether the router wrote each token.
        logprobs: log-probability of each token, 0 for the environment's.
        turns: (first token, tokens) of each turn of the router's.
    """

    rollout: Rollout
    prompt: list[int]
    tokens: list[int] = field(default_factory=list)
    ours: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    turns: list[tuple[int, list[int]]] = field(default_factory=list)

    def add(self, tokens: Sequence[int], logprobs: Sequence[float], *, ours: bool) -> None:
        """Add tokens to the completion."""
        self.tokens += tokens
        self.ours += [ours] * len(tokens)
        self.logprobs += logprobs

    def cut(self, length: int) -> None:
        """Leave out what is beyond a length."""
        for column in (self.tokens, self.ours, self.logprobs):
            del column[length:]


class Writer:
    """Writes turns with a causal language model: tokens and their log-probabilities, drawn by a seed of its own.

    Args:
        model: a Hugging Face causal language model.
        tokenizer: the model's tokenizer.
        stops: texts that end a turn.
        turn_tokens: most tokens of a turn.
        batch_size: most rows decoded together.
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
        """Write a turn after each prefix: its tokens and their log-probabilities; temperature 0 is greedy.

        Args:
            prefixes: tokens so far.
            temperature: temperature of the draws.
            seed: seed of the draws; a row's depend on it and on the row's place alone.
            room: most tokens of each turn.
        """
        turns: list[tuple[list[int], list[float]]] = []
        for start in range(0, len(prefixes), self.batch_size):
            part = prefixes[start : start + self.batch_size]
            limits = [self.turn_tokens] * len(part)
            if room is not None:
                limits = [min(a, b) for a, b in zip(limits, room[start : start + len(part)], strict=True)]
            turns += self._batch(part, temperature, np.random.default_rng([seed, start]), limits)
        return turns

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
        """Text of a turn, without what ends it."""
        kept = [token for token in tokens if token not in self.ends]
        return str(self.tokenizer.decode(kept))

    def ids(self, text: str) -> list[int]:
        """Tokens of a text, without special ones."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def _draw(logits: Tensor, temperature: float, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw a token for each row, with its log-probability."""
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
) -> list[PlayedRollout]:
    """Play a rollout of every question to its end, all of them turn by turn together.

    Args:
        writer: the router.
        environment: where it plays, with the pool.
        questions: questions of the rollouts.
        prompts: tokens that each rollout begins with.
        temperature: temperature of the router's draws.
        seed: seed of the router's draws.
        completion_tokens: most tokens of a rollout, information included; one that is cut there is broken.
    """
    played = [PlayedRollout(Rollout(q), list(p)) for q, p in zip(questions, prompts, strict=True)]
    for turn in range(environment.limits.calls + 2):
        open_ = [p for p in played if not p.rollout.done]
        if not open_:
            break
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
            p.add(tokens, logprobs, ours=True)
            texts.append(writer.text(tokens))
        replies = await environment.step_all([p.rollout for p in open_], texts)
        for p, information in zip(open_, replies, strict=True):
            if information is not None:
                ids = writer.ids(information)
                p.add(ids, [0.0] * len(ids), ours=False)
                p.rollout.done = len(p.tokens) >= completion_tokens
    for p in played:
        p.cut(completion_tokens)
    return played


def credit_of(played: PlayedRollout, writer: Writer, names: Sequence[str]) -> Tensor:
    """Credit of tokens [tokens, components]: form goes to the tags, thrift to the names, the answer to all of ours.

    A component none of whose tokens is there goes to all.
    """
    credit = torch.zeros(len(played.tokens), len(names))
    ours = torch.tensor(played.ours)
    for (first, tokens), turn in zip(played.turns, played.rollout.turns, strict=False):
        # Characters of the turn's text up to and with each token.
        ends = [len(writer.text(tokens[: n + 1])) for n in range(len(tokens))]
        for span in turn.spans:
            for n, name in enumerate(names):
                if span.kind == SPANS.get(name):
                    place = _tokens_of(span, ends)
                    credit[first + place.start : first + place.stop, n] = 1.0
    for n in range(len(names)):
        if not credit[:, n].any():
            credit[:, n] = 1.0
    return credit * ours[:, None]


def _tokens_of(span: Span, ends: Sequence[int]) -> range:
    """Tokens that share a character with a span."""
    first = next((n for n, end in enumerate(ends) if end > span.start), len(ends))
    last = next((n for n, end in enumerate(ends) if end >= span.stop), len(ends) - 1)
    return range(first, last + 1)
