"""The checks of the audit: each asks the engine one question, and answers it with evidence."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from noria.mtp.acceptance.sampling import SamplingParams
from noria.mtp.engines.desk import BadAnswer, Desk, call, count_cells, sequences_of
from noria.mtp.engines.engine import AuditRequest, Sampler, Tokens
from noria.mtp.engines.evidence import Check, GTest, exact, split_cells, unknown

Question = Callable[..., list[Check]]
"""(desk, *names) → one check a name."""


def _laws(desk: Desk, name: str) -> list[Check]:
    """The joint laws of the first 1, …, depth tokens."""
    drawn = desk.main()
    reach = min(desk.depth, *(len(sequences[0]) for sequences in drawn))
    names = [f"{name} 1" if k == 1 else f"{name} 1 to {k}" for k in range(1, desk.depth + 1)]
    checks = [desk.compare(title, drawn, SamplingParams(), k) for k, title in enumerate(names[:reach], 1)]
    return checks + [unknown(title, f"the sequences have {reach} tokens") for title in names[reach:]]


def _positions(desk: Desk, name: str) -> list[Check]:
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
        return [unknown(name, "the law leaves nothing to chance")]
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


def _neighbours(desk: Desk, name: str) -> list[Check]:
    """First tokens of sequences 2i and 2i + 1 follow the product law."""
    evidence = GTest()
    for prompt, sequences in zip(desk.prompts, desk.main(), strict=True):
        pairs = len(sequences) // 2
        if not pairs:
            continue
        # So few cells that a pair of the rarest is expected about five times.
        cells = split_cells(desk.tables, prompt, SamplingParams(), 1, math.isqrt(5 * pairs))
        drawn = [cells.of(sequence) for sequence in sequences[: 2 * pairs]]
        observed = Counter(a + b for a, b in zip(drawn[::2], drawn[1::2], strict=True))
        both = itertools.product(cells.leaves, repeat=2)
        evidence.add(observed, {a + b: cells.mass[a] * cells.mass[b] * pairs for a, b in both})
    return [evidence.check(name)]


def _same_seed(desk: Desk, name: str) -> list[Check]:
    few = min(desk.samples, 200)
    params = SamplingParams(temperature=0.9)
    first, again = (desk.ask(desk.engine.sample, params, desk.seed + 100, few) for _ in range(2))
    differ = sum(a != b for x, y in zip(first, again, strict=True) for a, b in zip(x, y, strict=True))
    total = few * len(desk.prompts)
    problem = f"{differ} of {total} sequences differ when asked for again" if differ else None
    return [exact(name, problem, f"{total} sequences")]


def _other_seeds(desk: Desk, name: str) -> list[Check]:
    """Sequences of neighbouring seeds agree, in place or one place along, no oftener than Σ P(x)² says."""
    lags = (-1, 0, 1)
    agree, pairs, chance = dict.fromkeys(lags, 0), dict.fromkeys(lags, 0), dict.fromkeys(lags, 0.0)
    for i, (prompt, mine) in enumerate(zip(desk.prompts, desk.main(), strict=True)):
        n = len(mine)
        other = sequences_of(call(desk.engine.sample, prompt, n, SamplingParams(), desk.seed + i + 1), n)
        depth = min(desk.depth, len(mine[0]), len(other[0]))
        cells = split_cells(desk.tables, prompt, SamplingParams(), depth, n)
        collide = sum(cells.mass[leaf] ** 2 for leaf in cells.leaves)
        a, b = [cells.of(s) for s in mine], [cells.of(s) for s in other]
        for lag in lags:
            matched = [x == y for x, y in zip(a[max(0, lag) :], b[max(0, -lag) :], strict=False)]
            agree[lag] += sum(matched)
            pairs[lag] += len(matched)
            chance[lag] += collide * len(matched)
    if chance[0] > 0.9 * pairs[0]:
        return [unknown(name, "the law leaves too little to chance to tell seeds apart")]
    # The pairs of one lag are independent but have several chances: Poisson's tail is on the safe side.
    tails = {lag: float(stats.poisson.sf(agree[lag] - 1, chance[lag])) for lag in lags if pairs[lag]}
    worst = min(tails, key=lambda lag: tails[lag])
    detail = f"{agree[worst]} of {pairs[worst]} agree at lag {worst}, {chance[worst]:.0f} expected"
    return [Check(name, True, float(agree[worst]), min(1.0, len(tails) * tails[worst]), detail)]


def _temperatures(desk: Desk, below: str, above: str) -> list[Check]:
    checks = []
    for i, (name, temperature) in enumerate(((below, 0.6), (above, 1.5))):
        params = SamplingParams(temperature=temperature)
        drawn = desk.ask(desk.engine.sample, params, desk.seed + 200 + 10 * i)
        checks.append(desk.compare(name, drawn, params, min(2, desk.depth, len(drawn[0][0]))))
    return checks


def _top_k(desk: Desk, name: str) -> list[Check]:
    half = _half(desk)
    return _truncation(
        desk, name, 300, [SamplingParams(top_k=k) for k in (half, half + 1, half - 1) if k > 0]
    )


def _top_p(desk: Desk, name: str) -> list[Check]:
    return _truncation(desk, name, 310, [SamplingParams(top_p=p) for p in (0.7, 0.75, 0.65, 0.8, 0.6)])


def _min_p(desk: Desk, name: str) -> list[Check]:
    return _truncation(desk, name, 320, [SamplingParams(min_p=p) for p in (0.2, 0.23, 0.17, 0.26, 0.14)])


def _all_filters(desk: Desk, name: str) -> list[Check]:
    half, masses = _half(desk), (0.9, 0.93, 0.87, 0.84)
    return _truncation(desk, name, 330, [SamplingParams(0.8, half, p, 0.02) for p in masses])


def _half(desk: Desk) -> int:
    return max(2, min(50, len(desk.tables.one(desk.prompts[0], SamplingParams())) // 2))


def _truncation(desk: Desk, name: str, seed: int, candidates: Sequence[SamplingParams]) -> list[Check]:
    """Nothing outside the support, and the law within, behind prefixes where no token stands on a threshold."""
    params = max(candidates, key=lambda tried: sum(_clear(desk, prompt, tried) for prompt in desk.prompts))

    @cache
    def clear(prefix: Tokens) -> bool:
        return _clear(desk, prefix, params)

    if not any(clear(prompt) for prompt in desk.prompts):
        return [unknown(name, "every threshold tried falls on some token's edge, where round-off decides")]
    drawn = desk.ask(desk.engine.sample, params, desk.seed + seed)
    for place in desk.places(drawn, _moved(params, 1e-4)):
        if place.probability == 0:
            return [exact(name, f"{place} is outside of what is kept")]
    return [desk.compare(name, drawn, params, min(2, desk.depth, len(drawn[0][0])), clear)]


def _clear(desk: Desk, prefix: Tokens, params: SamplingParams) -> bool:
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


def _greedy(desk: Desk, name: str) -> list[Check]:
    drawn = desk.ask(desk.engine.sample, SamplingParams(temperature=0), desk.seed + 400, min(3, desk.samples))
    tokens = 0
    for place in desk.places(drawn, SamplingParams()):
        # A tie may fall either way by round-off.
        if place.probability < place.p.max() * (1 - 1e-5):
            return [exact(name, f"{place}, where {int(place.p.argmax())} is the argmax")]
        tokens += 1
    return [exact(name, None, f"{tokens} tokens")]


def _stops(desk: Desk, form: str, law: str) -> list[Check]:
    """Sequences end with the first end token or at the length, and follow the law until then."""
    if desk.engine.stop is None:
        return [unknown(name, "the engine offers no `stop`") for name in (form, law)]
    params = SamplingParams()
    first = np.mean([desk.tables.one(prompt, params) for prompt in desk.prompts], axis=0)
    end = int(np.abs(first - 0.2).argmin())
    evidence, seen = GTest(), 0
    lengths = range(1, desk.depth + 3)
    n = max(1, desk.samples // len(lengths))
    for length in lengths:
        for i, prompt in enumerate(desk.prompts):
            seed = desk.seed + 500 + 10 * length + i
            answer = call(desk.engine.stop, prompt, n, params, seed, end, length)
            sequences = sequences_of(answer, n, even=False)
            problem = next(filter(None, (_ending(sequence, end, length) for sequence in sequences)), None)
            if problem:
                return [exact(form, problem), unknown(law, "the sequences end wrongly")]
            seen += n
            count_cells(
                evidence, split_cells(desk.tables, prompt, params, min(length, desk.depth), n, end), sequences
            )
    return [exact(form, None, f"{seen} sequences, end token {end}"), evidence.check(law)]


def _ending(sequence: Tokens, end: int, length: int) -> str | None:
    if end in sequence[:-1]:
        return f"tokens after the end token {end}: {list(sequence)}"
    if len(sequence) > length:
        return f"{len(sequence)} tokens where {length} are the most"
    if len(sequence) < length and sequence[-1] != end:
        return f"{len(sequence)} of {length} tokens without the end token {end}: {list(sequence)}"
    return None


def _logprobs(desk: Desk, name: str) -> list[Check]:
    """They are log p after temperature and truncation, of every token."""
    if desk.engine.logprobs is None:
        return [unknown(name, "the engine offers no `logprobs`")]
    few = min(desk.samples, 100)
    worst, tokens = 0.0, 0
    for params in (SamplingParams(), SamplingParams(temperature=0.7, top_k=_half(desk))):
        drawn, logprobs = [], []
        for i, prompt in enumerate(desk.prompts):
            answer = call(desk.engine.logprobs, prompt, few, params, desk.seed + 600 + i)
            if not isinstance(answer, tuple) or len(answer) != 2:
                raise BadAnswer("it did not return sequences and their log-probabilities")
            drawn.append(sequences_of(answer[0], few))
            logprobs.append([[float(value) for value in values] for values in answer[1]])
            if [len(values) for values in logprobs[-1]] != [len(sequence) for sequence in drawn[-1]]:
                raise BadAnswer("it did not return one log-probability a token")
        for place in desk.places(drawn, params):
            value = logprobs[place.prompt][place.row][place.t]
            true = math.log(place.probability) if place.probability else -math.inf
            if not abs(value - true) <= desk.tolerance:  # NaN is an error too
                return [exact(name, f"{place}: {value:.4f}, where log p is {true:.4f}")]
            worst, tokens = max(worst, abs(value - true)), tokens + 1
    return [exact(name, None, f"{tokens} tokens, largest error {worst:.1g}")]


def _batches(desk: Desk, name: str) -> list[Check]:
    """Requests with different params and seeds: together, in reverse, and alone."""
    if desk.engine.batch is None:
        return [unknown(name, "the engine offers no `batch`")]
    kinds = [SamplingParams(), SamplingParams(0.7, 2), SamplingParams(0), SamplingParams(1.2)]
    requests = [
        AuditRequest(desk.prompts[i % len(desk.prompts)], kinds[i % 4], desk.seed + 700 + i // 2)
        for i in range(12)
    ]
    together = sequences_of(call(desk.engine.batch, requests), 12)
    backwards = sequences_of(call(desk.engine.batch, requests[::-1]), 12)[::-1]
    alone = [sequences_of(call(desk.engine.batch, [request]), 1)[0] for request in requests]
    problems = []
    for other, how in ((backwards, "in the reverse order"), (alone, "when alone")):
        if differ := sum(a != b for a, b in zip(together, other, strict=True)):
            problems.append(f"{differ} of 12 requests differ {how}")
    return [exact(name, ", ".join(problems) or None, "12 requests together, in the reverse order and alone")]


def _stale(desk: Desk, name: str) -> list[Check]:
    return _other_draft(desk, name, desk.engine.stale, "stale", 800)


def _disjoint(desk: Desk, name: str) -> list[Check]:
    return _other_draft(desk, name, desk.engine.disjoint, "disjoint", 900)


def _other_draft(desk: Desk, name: str, sampler: Sampler | None, offer: str, seed: int) -> list[Check]:
    if sampler is None:
        return [unknown(name, f"the engine offers no `{offer}`")]
    params = SamplingParams()
    drawn = desk.ask(sampler, params, desk.seed + seed)
    return [desk.compare(name, drawn, params, min(desk.depth, len(drawn[0][0])))]


QUESTIONS: tuple[tuple[tuple[str, ...], Question], ...] = (
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
