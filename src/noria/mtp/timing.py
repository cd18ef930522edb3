"""What a round of drafts costs on this machine: a plain step, a verification of γ + 1 tokens, one draft."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from noria.core.errors import ConfigError
from noria.mtp.advice import Timing
from noria.mtp.decoder import Decoder, Request
from noria.mtp.drafter import HeadDrafter
from noria.mtp.heads import MTPHead
from noria.mtp.names import MAX_GAMMA, Rule
from noria.mtp.sampling import SamplingParams

__all__ = ["measure"]


class _Stopwatch:
    """Adds up the seconds of a callable, waiting for the accelerator."""

    def __init__(self, call: Callable[..., Any], device: torch.device) -> None:
        self.call, self.device, self.spent = call, device, 0.0

    def __call__(self, *arguments: Any) -> Any:
        began = _now(self.device)
        result = self.call(*arguments)
        self.spent += _now(self.device) - began
        return result


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

    The decoder runs `rounds` rounds at each γ, in turns, on the same requests; what its drafter takes is clocked apart.
    A round's time is divided by the rounds that were made, so it holds sampling, verification and bookkeeping as they
    come. The median over three turns is given.

    Args:
        model: the policy.
        head: its head; how often it is right does not matter.
        gammas: the numbers of drafts a round to time.
        batch_size: requests decoded together.
        context: tokens of each prompt, random ones.
        rounds: of each turn.
        params: temperature and filters.
        rule: of verification.
        vocab: how many of the logits are tokens.

    Raises:
        ConfigError: a number out of its range.
    """
    if not gammas or min(gammas) < 1 or max(gammas) > MAX_GAMMA:
        raise ConfigError(f"{list(gammas)} drafts a round", where="gammas", mend=f"give some in 1 … {MAX_GAMMA}")
    for name, value in (("batch_size", batch_size), ("context", context), ("rounds", rounds)):
        if value < 1:
            raise ConfigError(f"{value} is out of range", where=name, mend="give at least 1")
    device = next(head.parameters()).device
    params = params or SamplingParams()
    tokens = vocab or head.output.weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(int(tokens), (batch_size, context), generator=generator).tolist()

    def turn(gamma: int) -> tuple[float, float]:
        """Seconds a round: outside and inside the drafter."""
        drafter = HeadDrafter(head) if gamma else None
        decoder = Decoder(model, drafter, gamma=gamma or 1, rule=rule, eos=[], vocab=vocab)
        watch = None
        if drafter is not None:
            watch = _Stopwatch(drafter.propose, device)
            drafter.propose = watch  # type: ignore[method-assign]
        timed = [0.0, 0.0]
        for number, new in enumerate((1, 1 + rounds)):  # the first leaves the prompt's own pass to take off
            inside = watch.spent if watch else 0.0
            began = _now(device)
            requests = [Request(p, new * (gamma + 1), params, row) for row, p in enumerate(prompts)]
            made = _rounds(decoder, requests, gamma)
            took = _now(device) - began
            drafted = (watch.spent if watch else 0.0) - inside
            if number == 0:
                timed = [took - drafted, drafted, made]
            else:
                more = max(1, made - timed[2])
                return max(1e-9, (took - drafted - timed[0]) / more), max(0.0, (drafted - timed[1]) / more)
        raise AssertionError

    wanted = [0, *sorted(set(gammas))]
    for gamma in wanted:  # warm up
        turn(gamma)
    turns = [{gamma: turn(gamma) for gamma in wanted} for _ in range(3)]
    outside = {g: statistics.median(t[g][0] for t in turns) for g in wanted}
    drafting = statistics.median(t[g][1] / g for t in turns for g in wanted[1:])
    return Timing(outside[0], {g: outside[g] for g in wanted[1:]}, drafting)


def _rounds(decoder: Decoder, requests: Sequence[Request], gamma: int) -> int:
    """Decode, and count the passes after the prompt's."""
    done = decoder.generate(requests)
    if not gamma:
        return max(len(c.tokens) for c in done) - 1
    return max(c.drafted[0] for c in done)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
