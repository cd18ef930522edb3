"""The time that a round of drafts takes on this machine: a plain step, a verification of γ + 1 tokens, one draft."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from noria.core.errors import ConfigError
from noria.mtp.acceptance.advice import Timing
from noria.mtp.acceptance.sampling import SamplingParams
from noria.mtp.decoding.decoder import Decoder, Pick, Request
from noria.mtp.decoding.drafter import HeadDrafter
from noria.mtp.heads.head import MTPHead
from noria.mtp.types import MAX_GAMMA, Rule


class _EnoughRounds(Exception):
    """Raised when all rounds that were wanted are timed."""


class _TimedDrafter(HeadDrafter):
    """A drafter that notes when each of its calls began and ended, and stops the decoder behind the last one wanted."""

    def __init__(self, head: MTPHead, rounds: int) -> None:
        super().__init__(head)
        self.rounds = rounds
        self.began: list[float] = []
        self.ended: list[float] = []

    def propose(
        self, hidden: Tensor, tokens: Tensor, positions: Tensor, counts: Tensor, gamma: int, pick: Pick
    ) -> None:
        """Draft as the head's drafter does, and note the time."""
        self.began.append(_now(hidden.device))
        if len(self.began) > self.rounds:
            raise _EnoughRounds
        super().propose(hidden, tokens, positions, counts, gamma, pick)
        self.ended.append(_now(hidden.device))

    def seconds(self) -> tuple[float, float]:
        """Medians of a round: outside and inside this drafter. The first round takes in the prompt and is left out."""
        drafts = [end - start for start, end in zip(self.began[1:], self.ended[1:], strict=False)]
        rounds = [after - before for before, after in zip(self.began[1:], self.began[2:], strict=False)]
        outside = [whole - inside for whole, inside in zip(rounds, drafts, strict=False)]
        return statistics.median(outside), statistics.median(drafts)


@torch.no_grad()
def measure(
    model: Any,
    head: MTPHead,
    *,
    gammas: Sequence[int] = (1, 2, 3, 4, 5),
    batch_size: int = 1,
    context: int = 256,
    rounds: int = 20,
    params: SamplingParams | None = None,
    rule: Rule = "rejection",
    vocab: int | None = None,
) -> Timing:
    """Time real decoding, and tell drafting from the rest of a round.

    The decoder runs `rounds` rounds at each γ, in turns, on the same requests; what its drafter takes is clocked
    apart. The median over rounds, then over three turns, is given, sampling, verification and bookkeeping included.

    Args:
        model: the policy.
        head: the model's head; how often it is right does not matter.
        gammas: numbers of drafts of a round to time.
        batch_size: requests decoded together.
        context: tokens of each prompt, random ones.
        rounds: rounds of each turn.
        params: temperature and filters.
        rule: rule of verification.
        vocab: how many of the logits are tokens.

    Raises:
        ConfigError: a number out of its range, or more positions than the model holds.
    """
    if not gammas or min(gammas) < 1 or max(gammas) > MAX_GAMMA:
        raise ConfigError(
            f"{list(gammas)} drafts a round", where="gammas", mend=f"give some in 1 … {MAX_GAMMA}"
        )
    for name, value in (("batch_size", batch_size), ("context", context), ("rounds", rounds)):
        if value < (2 if name == "rounds" else 1):
            raise ConfigError(f"{value} is out of range", where=name, mend="give more")
    needed = context + (rounds + 2) * (max(gammas) + 1)
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if longest is not None and needed > longest:
        raise ConfigError(
            f"{context} tokens and {rounds} rounds make up to {needed} positions, the model holds {longest}",
            where="context",
            mend="give a smaller context, or fewer rounds",
        )
    device = next(head.parameters()).device
    params = params or SamplingParams()
    output: Any = head.output
    tokens = vocab or output.weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(int(tokens), (batch_size, context), generator=generator).tolist()

    def requests(tokens: int) -> list[Request]:
        return [Request(p, tokens, params, row) for row, p in enumerate(prompts)]

    def step() -> float:
        """Seconds a plain step."""
        decoder, took = Decoder(model, eos=[], vocab=vocab), []
        for new in (1, 1 + rounds):
            began = _now(device)
            decoder.generate(requests(new))
            took.append(_now(device) - began)
        return max(1e-9, took[1] - took[0]) / rounds

    def turn(gamma: int) -> tuple[float, float]:
        """Seconds a round, outside and inside the drafter."""
        clocked = _TimedDrafter(head, rounds + 1)
        decoder = Decoder(model, clocked, gamma=gamma, rule=rule, eos=[], vocab=vocab)
        with contextlib.suppress(_EnoughRounds):
            decoder.generate(requests((rounds + 2) * (gamma + 1)))
        return clocked.seconds()

    wanted = sorted(set(gammas))
    step()
    plain, turns = [], []
    for _ in range(3):
        plain.append(step())
        turns.append({gamma: turn(gamma) for gamma in wanted})
    verify = {g: statistics.median(t[g][0] for t in turns) for g in wanted}
    draft = statistics.median(t[g][1] / g for t in turns for g in wanted)
    return Timing(statistics.median(plain), verify, draft)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
