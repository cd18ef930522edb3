"""Readers of a tap: the mean over heads, rows recomputed on demand, attention rollout, and the reach of each head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from noria.credit.attention.layers import AttentionLayer
from noria.credit.attention.tap import AttentionCall, AttentionTap
from noria.credit.scores.rivals import NEAR, HeadReach
from noria.credit.types import HORIZON


class HeadMean:
    """The mean over the heads of all layers read, [batch, tokens, tokens] in fp32.

    Args:
        values: weight each head's attention by ‖v W_O‖ of the value it fetches (Kobayashi et al. 2020), then normalise
            every row to sum to one.
    """

    def __init__(self, *, values: bool = False) -> None:
        self.values = values
        self.sum: Tensor | None = None
        self.heads = 0

    def read(self, layer: int, call: AttentionCall) -> None:
        """Add the heads of a layer."""
        batch, heads, tokens = call.shape
        if self.sum is None:
            self.sum = call.query.new_zeros(batch, tokens, tokens, dtype=torch.float32)
        self.heads += heads
        norms = call.value_norms() if self.values else None
        for rows, start, stop in call.blocks():
            weights = call.weights(start, stop, rows)
            if norms is not None:
                weights *= norms[rows, :, None, :stop]
            self.sum[rows, start:stop, :stop] += weights.sum(1)

    def result(self) -> Tensor:
        """The mean over all heads added."""
        assert self.sum is not None
        if self.values:
            return self.sum.div_(self.sum.sum(-1, keepdim=True).clamp(min=1e-30))
        return self.sum.div_(self.heads)


class KeptCalls:
    """Queries and keys of the layers read, from which rows of their mean are recomputed on demand.

    This is for contexts so long that [tokens, tokens] does not fit: it takes O(tokens · block) beside the queries and
    keys themselves. The result is a function of rows, as :func:`noria.credit.scores.flow.trace_flow` takes it.
    """

    def __init__(self) -> None:
        self.calls: list[AttentionCall] = []

    def read(self, layer: int, call: AttentionCall) -> None:
        """Keep a layer's queries and keys."""
        self.calls.append(call)

    def result(self) -> Callable[[int, int], Tensor]:
        """A function that computes rows of the mean over heads and layers."""
        calls, heads = self.calls, sum(call.shape[1] for call in self.calls)

        def rows(start: int, stop: int) -> Tensor:
            first, *others = calls
            mean = first.weights(start, stop).sum(1)
            for call in others:
                mean += call.weights(start, stop).sum(1)
            return mean.div_(heads)

        return rows


class AttentionRollout:
    """Attention rollout: the product of ½A_l + ½I over the layers read, last one first. [batch, tokens, tokens].

    It is meant for all layers of a model, and takes O(tokens³) operations for each.
    """

    def __init__(self) -> None:
        self.product: Tensor | None = None

    def read(self, layer: int, call: AttentionCall) -> None:
        """Multiply the product by a layer."""
        mean = HeadMean()
        mean.read(layer, call)
        half = mean.result().mul_(0.5)
        half.diagonal(dim1=1, dim2=2).add_(0.5)
        self.product = half if self.product is None else torch.bmm(half, self.product)

    def result(self) -> Tensor:
        """The product over all layers read."""
        assert self.product is not None
        return self.product


class LookBack:
    """The reach of every head back and ahead: see :class:`noria.credit.scores.rivals.HeadReach`.

    Args:
        sequence: [batch, tokens] number of each token's sequence; attention from and to padding, −1, does not count.
        horizon: least and greatest distance of the later tokens whose attention makes `future`.
    """

    def __init__(self, sequence: Tensor, horizon: tuple[int, int] = HORIZON) -> None:
        self.sequence, self.valid, self.horizon = sequence, sequence >= 0, horizon
        self.parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def read(self, layer: int, call: AttentionCall) -> None:
        """Add the heads of a layer."""
        batch, heads, tokens = call.shape
        total, near, future = (torch.zeros(batch, heads, tokens, device=call.query.device) for _ in range(3))
        places, (least, most) = torch.arange(tokens, device=call.query.device), self.horizon
        for rows, start, stop in call.blocks():
            weights = call.weights(start, stop, rows) * self.valid[rows, None, start:stop, None]
            back = (places[start:stop, None] - places[:stop]).clamp(min=0)
            total[rows, :, start:stop] = (weights * back).sum(-1)
            near[rows, :, start:stop] = (weights * back.clamp(max=NEAR)).sum(-1)
            future[rows, :, :stop] += (weights * ((back >= least) & (back <= most))).sum(2)
        # `future` is a mean: count the later tokens within the horizon of each, up to where its own sequence ends.
        ahead = torch.nn.functional.pad(self.valid.long().cumsum(1), (1, 0))
        end = torch.searchsorted(self.sequence.cummax(1).values, self.sequence, right=True)
        low, high = (torch.minimum(places + step, end) for step in (least, most + 1))
        watchers = (ahead.gather(1, high) - ahead.gather(1, low)).clamp(min=1)[:, None]
        real = self.valid.sum(1, keepdim=True)
        distance = total.sum(-1) / real.where(real > 0, 1)
        self.parts.append((distance.where(real > 0, torch.nan), near, future / watchers))

    def result(self) -> HeadReach:
        """The reach of the heads of all layers read."""
        return HeadReach(*(torch.cat(part, 1) for part in zip(*self.parts, strict=True)))


@torch.no_grad()
def head_mean(
    model: nn.Module, layers: Sequence[AttentionLayer], *, values: bool = False, **inputs: Any
) -> Tensor:
    """Attention of one pass, the mean over the heads of `layers`: [batch, tokens, tokens].

    Args:
        model: language model to run.
        layers: layers to read.
        values: weight heads by what they write, as in :class:`HeadMean`.
        inputs: arguments of the model's forward.
    """
    with AttentionTap(model, layers, {"mean": lambda: HeadMean(values=values)}) as tap:
        model(**{"use_cache": False} | inputs)
    mean: Tensor = tap.passes[0]["mean"]
    return mean
