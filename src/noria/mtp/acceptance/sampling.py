"""From logits to the distribution that a request asked for, and a token drawn from it.

`processed` is p (or q) as every rule of verification means it: after temperature, top-k, top-p and min-p, in the
order and with the tie rules of Hugging Face's `generate`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from noria.core.errors import ConfigError


@dataclass(frozen=True)
class SamplingParams:
    """Sampling settings of one request.

    Attributes:
        temperature: logits are divided by it; 0 is greedy (the first of the largest logits, no filter applies).
        top_k: keep the k largest logits and what ties with the last of them; 0 keeps all.
        top_p: keep the smallest set of most probable tokens whose mass reaches it, at least one; 1 keeps all.
        min_p: drop tokens less probable than `min_p` times the most probable one; 0 keeps all.

    Raises:
        ConfigError: a value out of its range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        _number("temperature", self.temperature, 0.0, math.inf)
        if 0 < self.temperature < 1e-5:
            raise ConfigError(
                f"{self.temperature} is too small to divide by", where="temperature", mend="use 0 for greedy"
            )
        if not isinstance(self.top_k, int) or isinstance(self.top_k, bool) or self.top_k < 0:
            raise ConfigError(
                f"{self.top_k!r} is not a count",
                where="top_k",
                mend="give a whole number, 0 keeps all tokens",
            )
        _number("top_p", self.top_p, 0.0, 1.0)
        _number("min_p", self.min_p, 0.0, 1.0)

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken, without chance."""
        return self.temperature == 0


class ProcessedLogits(NamedTuple):
    """Distributions, and which of them could be had.

    Attributes:
        probs: [..., vocab] float32; each valid row sums to 1, every other row is 0 throughout.
        valid: [...] bool; False where the logits held NaN or +∞, or nothing but −∞.
    """

    probs: Tensor
    valid: Tensor


@torch.no_grad()
def processed(
    logits: Tensor, params: SamplingParams | Sequence[SamplingParams], *, vocab: int | None = None
) -> ProcessedLogits:
    """The distribution that is drawn from: temperature, then top-k, top-p, min-p, then softmax, in float32.

    Args:
        logits: [batch, ..., vocab], any floating dtype; −∞ marks a forbidden token.
        params: one for all rows, or one for each entry of the first axis.
        vocab: how many columns are real tokens; padding beyond them gets probability 0, whatever it holds.

    Raises:
        ValueError: the number of params is not the batch size, or `vocab` is not within the columns.
    """
    columns = logits.shape[-1]
    real = columns if vocab is None else vocab
    if not 0 < real <= columns:
        raise ValueError(f"{real} real tokens in {columns} columns")
    if isinstance(params, SamplingParams):
        rows: Sequence[SamplingParams] = [params]
    else:
        rows = params
        if logits.ndim < 2 or len(rows) != logits.shape[0]:
            raise ValueError(f"{len(rows)} params for logits of shape {list(logits.shape)}")
    if logits.numel() == 0:
        return ProcessedLogits(logits.float(), torch.ones_like(logits[..., 0], dtype=torch.bool))

    scores = logits.reshape(len(rows), -1, columns)[..., :real].float()
    if not any(row.greedy or row.top_k or row.top_p < 1 or row.min_p for row in rows):
        probs = _temper(scores, rows).softmax(-1)
        valid = probs[..., 0] >= 0  # softmax makes all of a row NaN that has NaN, +∞ or nothing but −∞
        return _shaped(probs, valid, logits, columns - real)
    valid = (scores < math.inf).all(-1) & (scores > -math.inf).any(-1)  # NaN is not below anything
    scores = scores.masked_fill(~valid[..., None], 0.0)
    scores = _filtered(_temper(scores, rows), rows)
    probs = scores.softmax(-1)
    if greedy := [i for i, row in enumerate(rows) if row.greedy]:
        best = scores[greedy].argmax(-1, keepdim=True)
        probs[greedy] = torch.zeros_like(probs[greedy]).scatter_(-1, best, 1.0)
    return _shaped(probs, valid, logits, columns - real)


def _shaped(probs: Tensor, valid: Tensor, logits: Tensor, padding: int) -> ProcessedLogits:
    """Distributions in the shape of the logits: no mass in rows that are not valid, nor in padding."""
    probs = probs.masked_fill(~valid[..., None], 0.0)
    if padding:
        probs = torch.nn.functional.pad(probs, (0, padding))
    return ProcessedLogits(probs.reshape(logits.shape), valid.reshape(logits.shape[:-1]))


@torch.no_grad()
def sample(probs: Tensor, uniform: Tensor) -> Tensor:
    """Inverse CDF: the first token whose cumulative mass exceeds u · Σ probs; [...] int64.

    Sums in float64. The answer always has positive probability, whatever round-off does and even if u is 1.

    Args:
        probs: [..., vocab], not negative; need not be normalised.
        uniform: [...] in [0, 1).

    Returns:
        Token indices; −1 for a row that has no mass, or holds NaN or ∞.
    """
    cumulative = probs.to(torch.float64).cumsum(-1)
    total = cumulative[..., -1:]
    wanted = uniform[..., None].to(torch.float64) * total
    first = torch.searchsorted(cumulative, wanted, right=True).clamp(max=probs.shape[-1] - 1)
    if not bool((probs.gather(-1, first) > 0).all()):  # round-off, u = 1, or no mass at all
        positive = probs > 0  # a parallel scan may let the sum creep over a zero
        hit = positive & (cumulative > wanted)
        last = probs.shape[-1] - 1 - positive.flip(-1).to(torch.uint8).argmax(-1, keepdim=True)
        first = hit.to(torch.uint8).argmax(-1, keepdim=True).where(hit.any(-1, keepdim=True), last)
    token = first[..., 0]
    usable = (total[..., 0] > 0) & total[..., 0].isfinite()
    return torch.where(usable, token, -1)


# --- filters ------------------------------------------------------------------------------------------------


def _temper(scores: Tensor, rows: Sequence[SamplingParams]) -> Tensor:
    temperatures = [1.0 if row.greedy else row.temperature for row in rows]
    if all(t == 1 for t in temperatures):
        return scores
    return scores / _column(temperatures, scores)


def _below_top_k(part: Tensor, rows: Sequence[SamplingParams]) -> Tensor:
    counts = [min(row.top_k, part.shape[-1]) for row in rows]
    best = part.topk(max(counts)).values
    index = torch.tensor(counts, device=part.device)[:, None, None] - 1
    return part < best.gather(-1, index.expand(*part.shape[:-1], 1))


def _beyond_top_p(part: Tensor, rows: Sequence[SamplingParams]) -> Tensor:
    ascending, order = part.sort(dim=-1)
    drop = ascending.softmax(-1).cumsum(-1) <= _column([1 - row.top_p for row in rows], part)
    drop[..., -1] = False
    return torch.empty_like(drop).scatter_(-1, order, drop)


def _below_min_p(part: Tensor, rows: Sequence[SamplingParams]) -> Tensor:
    probs = part.softmax(-1)
    return probs < _column([row.min_p for row in rows], part) * probs.amax(-1, keepdim=True)


_FILTERS: tuple[tuple[Callable[[SamplingParams], bool], Callable[..., Tensor]], ...] = (
    (lambda row: row.top_k > 0, _below_top_k),
    (lambda row: row.top_p < 1, _beyond_top_p),
    (lambda row: row.min_p > 0, _below_min_p),
)
"""Which requests each filter is for, and what it drops of their scores [rows, n, vocab], in their order."""


def _filtered(scores: Tensor, rows: Sequence[SamplingParams]) -> Tensor:
    """The scores with what each request's filters drop at −∞."""
    for is_set, dropped in _FILTERS:
        chosen = [i for i, row in enumerate(rows) if is_set(row) and not row.greedy]
        if not chosen:
            continue
        every = len(chosen) == scores.shape[0]
        part = scores if every else scores[chosen]
        part = part.masked_fill(dropped(part, [rows[i] for i in chosen]), -math.inf)
        if every:
            scores = part
        else:
            scores[chosen] = part  # ours to write to: `processed` has copied the logits
    return scores


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]


def _number(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{value!r} is not a number", where=name)
    if not low <= value <= high:
        span = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise ConfigError(f"{value} is out of range", where=name, mend=f"give a number {span}")
