"""Is a sampler lossless? A conformance kit for any engine that decodes by drafting and verifying.

The engine is asked for samples on a target whose exact law is known, and what it returns is tested against that law: by
tokens, by every position, under temperature and truncation, greedily, with stale and with disjoint drafts; and that
seeds, batches, end tokens and log-probabilities mean what they should. A check that could not be made is `None` with
its reason, never a pass.

The statistical checks are G-tests, Σ 2 O log(O/E) ~ χ², over cells that the law fixes before the samples are seen.
Together they convict a lossless engine with probability at most `alpha` (Holm 1979). Each says how far from the law the
samples are in total variation, how far chance alone would bring them, and what distance it would have noticed.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, stats
from torch import Tensor

from noria.core.errors import ConfigError, DataError
from noria.core.statistics.corrections import holm
from noria.mtp.sampling import SamplingParams, processed

__all__ = ["AuditReport", "Check", "Engine", "Law", "Request", "Sampler", "audit"]

Tokens = tuple[int, ...]
Sampler = Callable[[Sequence[int], int, SamplingParams, int], Sequence[Sequence[int]]]
"""(prompt, n, params, seed) → n sequences of new tokens, all of one length, without stopping at any token."""
Law = Callable[[Sequence[Tokens]], Tensor]
"""Prefixes (prompt and new tokens) → next-token probabilities at temperature 1 [prefixes, vocab]."""


class Request(NamedTuple):
    """One sequence that is asked for."""

    prompt: Tokens
    params: SamplingParams
    seed: int


@dataclass(frozen=True)
class Engine:
    """What is audited. Only `sample` is needed; a check whose callable is missing is reported as not made.

    Attributes:
        sample: (prompt, n, params, seed) to n independent sequences of new tokens, all of one length.
        name: how the report calls it.
        logprobs: as `sample`, and returns beside the sequences the log-probability of each of their tokens.
        batch: requests to one sequence each, decoded together.
        stop: as `sample` with an end token and a length behind the seed: each sequence ends with the first end token
            or at that length.
        stale: `sample` with a draft that has fallen behind the target, or any other poor one.
        disjoint: `sample` with a draft that only proposes what the target never says.
    """

    sample: Sampler
    name: str = "engine"
    logprobs: (
        Callable[
            [Sequence[int], int, SamplingParams, int],
            tuple[Sequence[Sequence[int]], Sequence[Sequence[float]]],
        ]
        | None
    ) = None
    batch: Callable[[Sequence[Request]], Sequence[Sequence[int]]] | None = None
    stop: Callable[[Sequence[int], int, SamplingParams, int, int, int], Sequence[Sequence[int]]] | None = None
    stale: Sampler | None = None
    disjoint: Sampler | None = None


@dataclass(frozen=True)
class Check:
    """One question and its answer.

    Attributes:
        name: the question.
        passed: whether the engine conforms; None if it could not be checked, and `detail` says why.
        statistic: of the test; None where the answer needs none, ∞ where the law excludes what was seen.
        p_value: of the test, before the correction for their number.
        detail: what was seen, in one line.
        effect: total variation between what was sampled and the law, over the test's cells.
    """

    name: str
    passed: bool | None
    statistic: float | None
    p_value: float | None
    detail: str
    effect: float | None = None


@dataclass(frozen=True)
class AuditReport:
    """All checks of one engine.

    Attributes:
        engine: its name.
        checks: in the order they were made.
        alpha: the probability of convicting a lossless engine, over all statistical checks.
    """

    engine: str
    checks: tuple[Check, ...]
    alpha: float

    @property
    def verdict(self) -> Literal["pass", "fail", "incomplete"]:
        """`fail` if a check failed; else `incomplete` if one could not be made; else `pass`."""
        answers = [check.passed for check in self.checks]
        if False in answers:
            return "fail"
        return "incomplete" if None in answers or not answers else "pass"

    def failures(self) -> tuple[str, ...]:
        """Names of the failed checks."""
        return tuple(check.name for check in self.checks if check.passed is False)

    def table(self) -> str:
        """The report as lines of text."""
        words = {True: "pass", False: "FAIL", None: "not checked"}
        rows = [("check", "result", "p", "TV", "detail")]
        for check in self.checks:
            p = "" if check.p_value is None else f"{check.p_value:.2g}"
            effect = "" if check.effect is None else f"{check.effect:.3f}"
            rows.append((check.name, words[check.passed], p, effect, check.detail))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [
            "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[4]]) for row in rows
        ]
        made = sum(check.passed is not None for check in self.checks)
        last = (
            f"{self.engine}: {self.verdict} ({made} of {len(self.checks)} checks made, alpha {self.alpha:g})"
        )
        return "\n".join([*(line.rstrip() for line in lines), last])

    def to_json(self) -> str:
        """The report as JSON; a number that is missing or infinite is null."""
        checks = []
        for check in self.checks:
            values = asdict(check)
            for name, value in values.items():
                if isinstance(value, float) and not math.isfinite(value):
                    values[name] = None
            checks.append(values)
        report = {"engine": self.engine, "verdict": self.verdict, "alpha": self.alpha, "checks": checks}
        return json.dumps(report, indent=2, allow_nan=False, ensure_ascii=False)


def audit(
    engine: Engine | Sampler,
    law: Law,
    prompts: Sequence[Sequence[int]],
    *,
    samples: int = 4000,
    depth: int = 4,
    seed: int = 0,
    alpha: float = 1e-3,
    tolerance: float = 1e-3,
    prefixes: int = 20_000,
) -> AuditReport:
    """Make every check that the engine allows.

    It asks for about 11 × `samples` sequences. `depth` should be at least one more than the engine drafts, so that the
    token after a wholly accepted chain is among those whose joint law is tested.

    Args:
        engine: what to audit; a bare callable is its `sample`.
        law: the exact next-token distribution of the target.
        prompts: samples are shared evenly between them; a small vocabulary and few prompts give the sharpest tests.
        samples: sequences a statistical check is made of.
        depth: joint laws of 1, …, `depth` tokens are tested, as far as the sequences reach.
        seed: of the first request; others count on from it.
        alpha: the probability with which a lossless engine may be convicted.
        tolerance: largest error of a log-probability, in nats.
        prefixes: the most prefixes whose law is looked up for the check of all positions.

    Raises:
        ConfigError: no prompt, or a number out of its range.
        DataError: the law is not one: negative, not finite, or not summing to 1.
    """
    if not prompts:
        raise ConfigError("no prompt", where="prompts")
    for name, value, least in (
        ("samples", samples, len(prompts)),
        ("depth", depth, 1),
        ("prefixes", prefixes, 1),
    ):
        if value < least:
            raise ConfigError(f"{value} is out of range", where=name, mend=f"give at least {least}")
    if not 0 < alpha < 1:
        raise ConfigError(f"{alpha} is out of range", where="alpha", mend="give a number between 0 and 1")
    if not isinstance(engine, Engine):
        engine = Engine(engine)
    desk = _Desk(
        engine,
        _Tables(law),
        [tuple(int(t) for t in prompt) for prompt in prompts],
        samples // len(prompts),
        depth,
        seed,
        tolerance,
        prefixes,
    )
    findings = [check for names, question in _QUESTIONS for check in _answer(desk, names, question)]
    return AuditReport(engine.name, tuple(_holm(findings, alpha)), alpha)


# --- the law ------------------------------------------------------------------------------------------------


_HELD = 1 << 25  # probabilities held at once


class _Tables:
    """Next-token distributions by prefix, looked up once and in batches."""

    def __init__(self, law: Law) -> None:
        self._law = law
        self._raw: dict[Tokens, Tensor] = {}
        self._done: dict[tuple[SamplingParams, Tokens], NDArray[np.float64]] = {}
        self.vocab = 1

    def look_up(
        self, prefixes: Iterable[Tokens], params: SamplingParams
    ) -> dict[Tokens, NDArray[np.float64]]:
        """What the engine should draw from after each prefix, [vocab] float64."""
        wanted = dict.fromkeys(prefixes)
        if self._done and len(self._done) * self.vocab > _HELD:
            self._raw.clear()
            self._done.clear()
        missing = [prefix for prefix in wanted if (params, prefix) not in self._done]
        if missing:
            probs = processed(self._ask(missing).log(), params).probs.double()
            rows = (probs / probs.sum(-1, keepdim=True)).numpy()
            self._done.update(zip(((params, prefix) for prefix in missing), rows, strict=True))
        return {prefix: self._done[params, prefix] for prefix in wanted}

    def one(self, prefix: Tokens, params: SamplingParams) -> NDArray[np.float64]:
        return self.look_up([prefix], params)[prefix]

    def _ask(self, prefixes: Sequence[Tokens]) -> Tensor:
        new = [prefix for prefix in prefixes if prefix not in self._raw]
        if new:
            rows = torch.as_tensor(self._law(new)).detach().double().cpu()
            if rows.ndim != 2 or len(rows) != len(new):
                raise DataError(f"shape {list(rows.shape)} for {len(new)} prefixes", where="law")
            wrong = ~((rows >= 0).all(1) & ((rows.sum(1) - 1).abs() < 1e-3))
            if wrong.any():
                prefix = new[int(wrong.int().argmax())]
                raise DataError(f"after {list(prefix)} it is no distribution", where="law")
            self._raw.update(zip(new, rows, strict=True))
            self.vocab = rows.shape[1]
        return torch.stack([self._raw[prefix] for prefix in prefixes])


_REST = -1  # in a cell's name: any token that has no cell of its own
_EXCLUDED: Tokens = (-2,)


@dataclass(frozen=True)
class _Cells:
    """A partition of all continuations into cells, each with its exact probability.

    Attributes:
        inner: the next-token law behind each prefix that was split further.
        mass: the probability of each cell and of each prefix that was split.
        leaves: the cells.
    """

    inner: Mapping[Tokens, NDArray[np.float64]]
    mass: Mapping[Tokens, float]
    leaves: Sequence[Tokens]

    def of(self, sequence: Sequence[int]) -> Tokens:
        """The cell a continuation falls in; `_EXCLUDED` if the law has none for it."""
        node: Tokens = ()
        while (p := self.inner.get(node)) is not None:
            token = sequence[len(node)]
            if not 0 <= token < len(p) or p[token] == 0:
                return _EXCLUDED
            node = (*node, token) if (*node, token) in self.mass else (*node, _REST)
        return node


def _cells(
    tables: _Tables,
    prompt: Tokens,
    params: SamplingParams,
    depth: int,
    samples: int,
    end: int | None = None,
    clear: Callable[[Tokens], bool] | None = None,
) -> _Cells:
    """Split prefixes while five samples are expected in them; the rest of a prefix's tokens share a cell.

    Prefixes that are not `clear`, behind which the law is not known for certain, are not split.
    """
    inner: dict[Tokens, NDArray[np.float64]] = {}
    mass: dict[Tokens, float] = {(): 1.0}
    leaves: list[Tokens] = []
    frontier: list[Tokens] = [()]
    for level in range(depth):
        # Of a large vocabulary only the most probable prefixes are split, for the memory that a law takes.
        room = max(1, _HELD // 8 // tables.vocab) - len(inner)
        frontier.sort(key=lambda node: -mass[node])
        leaves.extend(frontier[max(0, room) :])
        frontier = frontier[: max(0, room)]
        after = tables.look_up([prompt + node for node in frontier], params)
        if clear is not None:
            leaves.extend(node for node in frontier if not clear(prompt + node))
            frontier = [node for node in frontier if clear(prompt + node)]
        following: list[Tokens] = []
        for node in frontier:
            p = after[prompt + node]
            inner[node] = p
            big = np.flatnonzero(mass[node] * p * samples >= 5)
            for token in big.tolist():
                child = (*node, token)
                mass[child] = mass[node] * float(p[token])
                (leaves if level == depth - 1 or token == end else following).append(child)
            small = np.ones(len(p), dtype=bool)
            small[big] = False
            if (rest := mass[node] * float(p[small].sum())) > 0:
                mass[*node, _REST] = rest
                leaves.append((*node, _REST))
        frontier = following
    return _Cells(inner, mass, leaves)


# --- statistics ---------------------------------------------------------------------------------------------


@dataclass
class _Evidence:
    """Test statistics that add up, and the total variation that goes with them."""

    g: float = 0.0
    freedom: int = 0
    distance: float = 0.0
    noise: float = 0.0
    samples: int = 0
    excluded: int = 0

    def add(self, observed: Mapping[Tokens, int], expected: Mapping[Tokens, float]) -> None:
        """A G-test of counts against expectations that have the same sum; small cells are pooled."""
        n = sum(observed.values())
        o = np.array([observed.get(cell, 0) for cell in expected], dtype=float)
        e = np.array(list(expected.values()))
        small = e < 5
        if small.any():
            o, e = np.append(o[~small], o[small].sum()), np.append(e[~small], e[small].sum())
            if e[-1] < 5 and len(e) > 1:
                least = int(e[:-1].argmin())
                o[least] += o[-1]
                e[least] += e[-1]
                o, e = o[:-1], e[:-1]
        outside = n - int(o.sum())
        self.samples += n
        self.excluded += outside
        self.distance += (float(np.abs(o - e).sum()) + outside) / 2
        self.noise += float(np.sqrt(2 / math.pi * e * (1 - e / n).clip(0)).sum()) / 2
        if outside:
            self.g = math.inf
            self.freedom += len(e)
            return
        if len(e) < 2:
            return
        positive = o > 0
        g = 2 * float((o[positive] * np.log(o[positive] / e[positive])).sum())
        # Williams (1976): brings the statistic's mean to its degrees of freedom.
        self.g += g / (1 + (float((n / e).sum()) - 1) / (6 * n * (len(e) - 1)))
        self.freedom += len(e) - 1

    def check(self, name: str) -> Check:
        """As a check that is still to be judged: passed is True."""
        if not self.freedom:
            return _unknown(name, f"{self.samples} samples are too few, or the law leaves nothing to chance")
        p = float(stats.chi2.sf(self.g, self.freedom))
        effect = self.distance / max(self.samples, 1)
        seen = math.sqrt(_noticed(self.freedom) / (4 * self.samples))
        detail = (
            f"{self.samples} samples, {self.freedom} degrees of freedom, "
            f"TV by chance {self.noise / self.samples:.3f}, would notice {seen:.3f}"
        )
        if self.excluded:
            detail = f"{self.excluded} of {self.samples} samples are impossible under the law"
        return Check(name, True, self.g, p, detail, effect)


@lru_cache
def _noticed(freedom: int) -> float:
    """The non-centrality that a test at 1e-4 notices nine times in ten. It is ≈ 2 n KL ≥ 4 n TV² (Pinsker)."""
    threshold = stats.chi2.isf(1e-4, freedom)
    high = 100.0 + 20 * math.sqrt(freedom)
    return float(optimize.brentq(lambda x: stats.ncx2.sf(threshold, freedom, x) - 0.9, 1e-6, high))


def _holm(checks: Sequence[Check], alpha: float) -> list[Check]:
    """Judge the checks that carry a p-value, together: Holm's step-down at level alpha."""
    adjusted = holm([check.p_value if check.passed else None for check in checks])
    return [
        replace(check, passed=False) if p is not None and p <= alpha else check
        for check, p in zip(checks, adjusted, strict=True)
    ]


# --- asking the engine --------------------------------------------------------------------------------------


class _Wrong(Exception):
    """The engine answered, with something that is not what was asked for."""


class _Mute(Exception):
    """The engine could not be asked."""


@dataclass
class _Desk:
    """Who is audited, on what, and what has been asked already."""

    engine: Engine
    tables: _Tables
    prompts: list[Tokens]
    samples: int  # a prompt
    depth: int
    seed: int
    tolerance: float
    prefixes: int
    _main: list[list[Tokens]] | None = None

    def main(self) -> list[list[Tokens]]:
        """The plain samples that several checks share, by prompt."""
        if self._main is None:
            self._main = self.ask(self.engine.sample, SamplingParams(), self.seed)
        return self._main

    def ask(
        self, sampler: Sampler, params: SamplingParams, seed: int, samples: int | None = None
    ) -> list[list[Tokens]]:
        """Samples by prompt, each with a seed of its own."""
        n = samples or self.samples
        return [
            _sequences(_call(sampler, prompt, n, params, seed + i), n)
            for i, prompt in enumerate(self.prompts)
        ]

    def compare(
        self,
        name: str,
        drawn: Sequence[Sequence[Tokens]],
        params: SamplingParams,
        depth: int,
        clear: Callable[[Tokens], bool] | None = None,
    ) -> Check:
        """The joint law of the first `depth` tokens, behind prefixes that are clear."""
        evidence = _Evidence()
        for prompt, sequences in zip(self.prompts, drawn, strict=True):
            if clear is None or clear(prompt):
                cells = _cells(self.tables, prompt, params, depth, len(sequences), clear=clear)
                _count(evidence, cells, sequences)
        return evidence.check(name)

    def places(self, drawn: Sequence[Sequence[Tokens]], params: SamplingParams) -> Iterator[_Place]:
        """Every token of as many sequences as `prefixes` allows, with the law it should follow."""
        for i, (prompt, sequences) in enumerate(zip(self.prompts, drawn, strict=True)):
            length = max(len(sequence) for sequence in sequences)
            kept = sequences[: max(1, self.prefixes // (length * len(drawn)))]
            for t in range(length):
                here = [row for row in range(len(kept)) if len(kept[row]) > t]
                block = max(1, _HELD // 8 // self.tables.vocab)
                for start in range(0, len(here), block):
                    rows = here[start : start + block]
                    laws = self.tables.look_up([prompt + kept[row][:t] for row in rows], params)
                    for row in rows:
                        prefix = prompt + kept[row][:t]
                        yield _Place(i, row, t, prefix, kept[row][t], laws[prefix])


class _Place(NamedTuple):
    prompt: int
    row: int
    t: int
    prefix: Tokens
    token: int
    p: NDArray[np.float64]

    @property
    def probability(self) -> float:
        """Of the token, 0 if there is none such."""
        return float(self.p[self.token]) if 0 <= self.token < len(self.p) else 0.0

    def __str__(self) -> str:
        return f"token {self.token} after {list(self.prefix)}"


def _call(function: Callable[..., object], *arguments: object) -> object:
    try:
        return function(*arguments)
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        raise _Mute(f"the engine raised {type(error).__name__}: {words}") from error


def _sequences(answer: object, n: int, *, even: bool = True) -> list[Tokens]:
    try:
        answer = answer.tolist() if isinstance(answer, Tensor) else answer
        sequences = [tuple(int(t) for t in sequence) for sequence in answer]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise _Wrong("it did not return sequences of tokens") from None
    if len(sequences) != n:
        raise _Wrong(f"{len(sequences)} sequences came where {n} were asked for")
    lengths = {len(sequence) for sequence in sequences}
    if 0 in lengths:
        raise _Wrong("a sequence is empty")
    if even and len(lengths) > 1:
        raise _Wrong(f"lengths from {min(lengths)} to {max(lengths)} where one was asked for")
    return sequences


def _count(evidence: _Evidence, cells: _Cells, sequences: Sequence[Tokens]) -> None:
    observed = Counter(cells.of(sequence) for sequence in sequences)
    evidence.add(observed, {leaf: cells.mass[leaf] * len(sequences) for leaf in cells.leaves})


def _unknown(name: str, reason: str) -> Check:
    return Check(name, None, None, None, reason)


def _exact(name: str, problem: str | None, detail: str = "") -> Check:
    return Check(name, problem is None, None, None, detail if problem is None else problem)


Question = Callable[..., list[Check]]
"""(desk, *names) → one check a name."""


def _answer(desk: _Desk, names: tuple[str, ...], question: Question) -> list[Check]:
    """What the engine could not be asked is unknown; what it answered in no usable form fails."""
    try:
        return question(desk, *names)
    except _Mute as error:
        return [_unknown(name, str(error)) for name in names]
    except _Wrong as error:
        return [_exact(name, str(error)) for name in names]


# --- the questions ------------------------------------------------------------------------------------------


def _laws(desk: _Desk, name: str) -> list[Check]:
    """The joint laws of the first 1, …, depth tokens."""
    drawn = desk.main()
    reach = min(desk.depth, *(len(sequences[0]) for sequences in drawn))
    names = [f"{name} 1" if k == 1 else f"{name} 1 to {k}" for k in range(1, desk.depth + 1)]
    checks = [desk.compare(title, drawn, SamplingParams(), k) for k, title in enumerate(names[:reach], 1)]
    return checks + [_unknown(title, f"the sequences have {reach} tokens") for title in names[reach:]]


def _positions(desk: _Desk, name: str) -> list[Check]:
    """The surprise −log p(y_t | y_<t) has mean H_t and a known variance, and its excess is uncorrelated over t."""
    length = max(len(sequences[0]) for sequences in desk.main())
    excess, variance, counts = np.zeros(length), np.zeros(length), np.zeros(length)
    moments: dict[Tokens, tuple[float, float]] = {}
    for place in desk.places(desk.main(), SamplingParams()):
        if place.probability == 0:
            return [Check(name, True, math.inf, 0.0, f"{place} has probability 0")]
        if place.prefix not in moments:
            moments[place.prefix] = _surprise(place.p)
        mean, spread = moments[place.prefix]
        excess[place.t] += -math.log(place.probability) - mean
        variance[place.t] += spread
        counts[place.t] += 1
    chance = variance > 1e-9
    if not chance.any():
        return [_unknown(name, "the law leaves nothing to chance")]
    squares = np.where(chance, excess**2 / np.where(chance, variance, 1), 0)
    worst = int(squares.argmax())
    detail = (
        f"{counts.max():.0f} sequences, {length} positions, most at {worst + 1}: "
        f"{excess[worst] / counts[worst]:+.4f} nats a token"
    )
    g = float(squares.sum())
    return [Check(name, True, g, float(stats.chi2.sf(g, int(chance.sum()))), detail)]


def _surprise(p: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and variance of −log p(y), y ~ p."""
    possible = p[p > 0]
    nats = -np.log(possible)
    mean = float((possible * nats).sum())
    return mean, max(0.0, float((possible * nats**2).sum()) - mean**2)


def _neighbours(desk: _Desk, name: str) -> list[Check]:
    """First tokens of sequences 2i and 2i + 1 follow the product law."""
    evidence = _Evidence()
    for prompt, sequences in zip(desk.prompts, desk.main(), strict=True):
        pairs = len(sequences) // 2
        if not pairs:
            continue
        # So few cells that a pair of the rarest is expected about five times.
        cells = _cells(desk.tables, prompt, SamplingParams(), 1, math.isqrt(5 * pairs))
        drawn = [cells.of(sequence) for sequence in sequences[: 2 * pairs]]
        observed = Counter(a + b for a, b in zip(drawn[::2], drawn[1::2], strict=True))
        both = itertools.product(cells.leaves, repeat=2)
        evidence.add(observed, {a + b: cells.mass[a] * cells.mass[b] * pairs for a, b in both})
    return [evidence.check(name)]


def _same_seed(desk: _Desk, name: str) -> list[Check]:
    few = min(desk.samples, 200)
    params = SamplingParams(temperature=0.9)
    first, again = (desk.ask(desk.engine.sample, params, desk.seed + 100, few) for _ in range(2))
    differ = sum(a != b for x, y in zip(first, again, strict=True) for a, b in zip(x, y, strict=True))
    total = few * len(desk.prompts)
    problem = f"{differ} of {total} sequences differ when asked for again" if differ else None
    return [_exact(name, problem, f"{total} sequences")]


def _other_seeds(desk: _Desk, name: str) -> list[Check]:
    """Sequences of neighbouring seeds agree, in place or one place along, no oftener than Σ P(x)² says."""
    lags = (-1, 0, 1)
    agree, pairs, chance = dict.fromkeys(lags, 0), dict.fromkeys(lags, 0), dict.fromkeys(lags, 0.0)
    for i, (prompt, mine) in enumerate(zip(desk.prompts, desk.main(), strict=True)):
        n = len(mine)
        other = _sequences(_call(desk.engine.sample, prompt, n, SamplingParams(), desk.seed + i + 1), n)
        depth = min(desk.depth, len(mine[0]), len(other[0]))
        cells = _cells(desk.tables, prompt, SamplingParams(), depth, n)
        collide = sum(cells.mass[leaf] ** 2 for leaf in cells.leaves)
        a, b = [cells.of(s) for s in mine], [cells.of(s) for s in other]
        for lag in lags:
            matched = [x == y for x, y in zip(a[max(0, lag) :], b[max(0, -lag) :], strict=False)]
            agree[lag] += sum(matched)
            pairs[lag] += len(matched)
            chance[lag] += collide * len(matched)
    if chance[0] > 0.9 * pairs[0]:
        return [_unknown(name, "the law leaves too little to chance to tell seeds apart")]
    # The pairs of one lag are independent but have several chances: Poisson's tail is on the safe side.
    tails = {lag: float(stats.poisson.sf(agree[lag] - 1, chance[lag])) for lag in lags if pairs[lag]}
    worst = min(tails, key=lambda lag: tails[lag])
    detail = f"{agree[worst]} of {pairs[worst]} agree at lag {worst}, {chance[worst]:.0f} expected"
    return [Check(name, True, float(agree[worst]), min(1.0, len(tails) * tails[worst]), detail)]


def _temperatures(desk: _Desk, below: str, above: str) -> list[Check]:
    checks = []
    for i, (name, temperature) in enumerate(((below, 0.6), (above, 1.5))):
        params = SamplingParams(temperature=temperature)
        drawn = desk.ask(desk.engine.sample, params, desk.seed + 200 + 10 * i)
        checks.append(desk.compare(name, drawn, params, min(2, desk.depth, len(drawn[0][0]))))
    return checks


def _top_k(desk: _Desk, name: str) -> list[Check]:
    half = _half(desk)
    return _truncation(
        desk, name, 300, [SamplingParams(top_k=k) for k in (half, half + 1, half - 1) if k > 0]
    )


def _top_p(desk: _Desk, name: str) -> list[Check]:
    return _truncation(desk, name, 310, [SamplingParams(top_p=p) for p in (0.7, 0.75, 0.65, 0.8, 0.6)])


def _min_p(desk: _Desk, name: str) -> list[Check]:
    return _truncation(desk, name, 320, [SamplingParams(min_p=p) for p in (0.2, 0.23, 0.17, 0.26, 0.14)])


def _all_filters(desk: _Desk, name: str) -> list[Check]:
    half, masses = _half(desk), (0.9, 0.93, 0.87, 0.84)
    return _truncation(desk, name, 330, [SamplingParams(0.8, half, p, 0.02) for p in masses])


def _half(desk: _Desk) -> int:
    return max(2, min(50, len(desk.tables.one(desk.prompts[0], SamplingParams())) // 2))


def _truncation(desk: _Desk, name: str, seed: int, candidates: Sequence[SamplingParams]) -> list[Check]:
    """Nothing outside the support, and the law within, behind prefixes where no token stands on a threshold."""
    params = max(candidates, key=lambda tried: sum(_clear(desk, prompt, tried) for prompt in desk.prompts))

    @cache
    def clear(prefix: Tokens) -> bool:
        return _clear(desk, prefix, params)

    if not any(clear(prompt) for prompt in desk.prompts):
        return [_unknown(name, "every threshold tried falls on some token's edge, where round-off decides")]
    drawn = desk.ask(desk.engine.sample, params, desk.seed + seed)
    for place in desk.places(drawn, _moved(params, 1e-4)):
        if place.probability == 0:
            return [_exact(name, f"{place} is outside of what is kept")]
    return [desk.compare(name, drawn, params, min(2, desk.depth, len(drawn[0][0])), clear)]


def _clear(desk: _Desk, prefix: Tokens, params: SamplingParams) -> bool:
    """Whether the support of the next token stays the same when the thresholds move a little."""
    support = desk.tables.one(prefix, params) > 0
    for by in (-1e-4, 1e-4):
        if not np.array_equal(support, desk.tables.one(prefix, _moved(params, by)) > 0):
            return False
    k, best = params.top_k, -np.sort(-desk.tables.one(prefix, SamplingParams(temperature=params.temperature)))
    return not (0 < k < len(best) and best[k] > best[k - 1] * (1 - 1e-4))


def _moved(params: SamplingParams, by: float) -> SamplingParams:
    """Thresholds that keep a little more (or, by < 0, less)."""
    top_p = 1.0 if params.top_p == 1 else min(1.0, params.top_p + by)
    return replace(params, top_p=top_p, min_p=params.min_p * (1 - by))


def _greedy(desk: _Desk, name: str) -> list[Check]:
    drawn = desk.ask(desk.engine.sample, SamplingParams(temperature=0), desk.seed + 400, min(3, desk.samples))
    tokens = 0
    for place in desk.places(drawn, SamplingParams()):
        # A tie may fall either way by round-off.
        if place.probability < place.p.max() * (1 - 1e-5):
            return [_exact(name, f"{place}, where {int(place.p.argmax())} is the argmax")]
        tokens += 1
    return [_exact(name, None, f"{tokens} tokens")]


def _stops(desk: _Desk, form: str, law: str) -> list[Check]:
    """Sequences end with the first end token or at the length, and follow the law until then."""
    if desk.engine.stop is None:
        return [_unknown(name, "the engine offers no `stop`") for name in (form, law)]
    params = SamplingParams()
    first = np.mean([desk.tables.one(prompt, params) for prompt in desk.prompts], axis=0)
    end = int(np.abs(first - 0.2).argmin())
    evidence, seen = _Evidence(), 0
    lengths = range(1, desk.depth + 3)
    n = max(1, desk.samples // len(lengths))
    for length in lengths:
        for i, prompt in enumerate(desk.prompts):
            seed = desk.seed + 500 + 10 * length + i
            answer = _call(desk.engine.stop, prompt, n, params, seed, end, length)
            sequences = _sequences(answer, n, even=False)
            problem = next(filter(None, (_ending(sequence, end, length) for sequence in sequences)), None)
            if problem:
                return [_exact(form, problem), _unknown(law, "the sequences end wrongly")]
            seen += n
            _count(evidence, _cells(desk.tables, prompt, params, min(length, desk.depth), n, end), sequences)
    return [_exact(form, None, f"{seen} sequences, end token {end}"), evidence.check(law)]


def _ending(sequence: Tokens, end: int, length: int) -> str | None:
    if end in sequence[:-1]:
        return f"tokens after the end token {end}: {list(sequence)}"
    if len(sequence) > length:
        return f"{len(sequence)} tokens where {length} are the most"
    if len(sequence) < length and sequence[-1] != end:
        return f"{len(sequence)} of {length} tokens without the end token {end}: {list(sequence)}"
    return None


def _logprobs(desk: _Desk, name: str) -> list[Check]:
    """They are log p after temperature and truncation, of every token."""
    if desk.engine.logprobs is None:
        return [_unknown(name, "the engine offers no `logprobs`")]
    few = min(desk.samples, 100)
    worst, tokens = 0.0, 0
    for params in (SamplingParams(), SamplingParams(temperature=0.7, top_k=_half(desk))):
        drawn, said = [], []
        for i, prompt in enumerate(desk.prompts):
            answer = _call(desk.engine.logprobs, prompt, few, params, desk.seed + 600 + i)
            if not isinstance(answer, tuple) or len(answer) != 2:
                raise _Wrong("it did not return sequences and their log-probabilities")
            drawn.append(_sequences(answer[0], few))
            said.append([[float(value) for value in values] for values in answer[1]])
            if [len(values) for values in said[-1]] != [len(sequence) for sequence in drawn[-1]]:
                raise _Wrong("it did not return one log-probability a token")
        for place in desk.places(drawn, params):
            value = said[place.prompt][place.row][place.t]
            true = math.log(place.probability) if place.probability else -math.inf
            if not abs(value - true) <= desk.tolerance:  # NaN is an error too
                return [_exact(name, f"{place}: {value:.4f}, where log p is {true:.4f}")]
            worst, tokens = max(worst, abs(value - true)), tokens + 1
    return [_exact(name, None, f"{tokens} tokens, largest error {worst:.1g}")]


def _batches(desk: _Desk, name: str) -> list[Check]:
    """Requests with different params and seeds: together, in reverse, and alone."""
    if desk.engine.batch is None:
        return [_unknown(name, "the engine offers no `batch`")]
    kinds = [SamplingParams(), SamplingParams(0.7, 2), SamplingParams(0), SamplingParams(1.2)]
    requests = [
        Request(desk.prompts[i % len(desk.prompts)], kinds[i % 4], desk.seed + 700 + i // 2)
        for i in range(12)
    ]
    together = _sequences(_call(desk.engine.batch, requests), 12)
    backwards = _sequences(_call(desk.engine.batch, requests[::-1]), 12)[::-1]
    alone = [_sequences(_call(desk.engine.batch, [request]), 1)[0] for request in requests]
    problems = []
    for other, how in ((backwards, "in the reverse order"), (alone, "when alone")):
        if differ := sum(a != b for a, b in zip(together, other, strict=True)):
            problems.append(f"{differ} of 12 requests differ {how}")
    return [_exact(name, ", ".join(problems) or None, "12 requests together, in the reverse order and alone")]


def _stale(desk: _Desk, name: str) -> list[Check]:
    return _other_draft(desk, name, desk.engine.stale, "stale", 800)


def _disjoint(desk: _Desk, name: str) -> list[Check]:
    return _other_draft(desk, name, desk.engine.disjoint, "disjoint", 900)


def _other_draft(desk: _Desk, name: str, sampler: Sampler | None, offer: str, seed: int) -> list[Check]:
    if sampler is None:
        return [_unknown(name, f"the engine offers no `{offer}`")]
    params = SamplingParams()
    drawn = desk.ask(sampler, params, desk.seed + seed)
    return [desk.compare(name, drawn, params, min(desk.depth, len(drawn[0][0])))]


_QUESTIONS: tuple[tuple[tuple[str, ...], Question], ...] = (
    (("law of tokens",), _laws),
    (("law of every position",), _positions),
    (("samples are independent",), _neighbours),
    (("same seed, same tokens",), _same_seed),
    (("other seeds, other tokens",), _other_seeds),
    (("temperature below 1", "temperature above 1"), _temperatures),
    (("top-k",), _top_k),
    (("top-p",), _top_p),
    (("min-p",), _min_p),
    (("all filters",), _all_filters),
    (("greedy is the argmax",), _greedy),
    (("end token and length", "law with an end token"), _stops),
    (("log-probabilities",), _logprobs),
    (("batches do not matter",), _batches),
    (("stale draft",), _stale),
    (("disjoint supports",), _disjoint),
)
