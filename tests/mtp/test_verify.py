"""Verification: the exact law of what is emitted, for every rule; closed forms of acceptance; truncation; sick rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from noria.mtp.acceptance.sampling import SamplingParams, processed, sample
from noria.mtp.acceptance.streams import Streams
from noria.mtp.acceptance.verify import Verification, verify
from noria.mtp.types import Rule

torch.set_num_threads(1)
RULES: tuple[Rule, ...] = get_args(Rule)


# --- all drafts of a small chain, and the law of what comes of them ---------------------------------------------


@dataclass
class Chain:
    """A context-dependent p and q: distributions by prefix, every prefix of up to `steps` tokens. float64."""

    p: dict[tuple[int, ...], Tensor]
    q: dict[tuple[int, ...], Tensor]
    vocab: int
    steps: int

    def batch(self, drafts: Tensor) -> tuple[Tensor, Tensor]:
        """target [batch, steps + 1, vocab] and draft [batch, steps, vocab] along the drafts."""
        rows = [tuple(row) for row in drafts.tolist()]
        target = [[self.p[row[:i]] for i in range(self.steps + 1)] for row in rows]
        draft = [[self.q[row[:i]] for i in range(self.steps)] for row in rows]
        return (
            torch.stack([torch.stack(row) for row in target]),
            torch.stack([torch.stack(row) for row in draft]),
        )

    def proposals(self) -> tuple[Tensor, Tensor]:
        """Every draft [drafts, steps] and the probability that q proposes it."""
        drafts = torch.tensor(list(itertools.product(range(self.vocab), repeat=self.steps)))
        _, draft = self.batch(drafts)
        return drafts, draft.gather(2, drafts[..., None])[..., 0].prod(1)

    def best(self) -> tuple[Tensor, Tensor]:
        """The one draft that is the argmax of q at each step."""
        tokens: tuple[int, ...] = ()
        for _ in range(self.steps):
            tokens = (*tokens, int(self.q[tokens].argmax()))
        return torch.tensor([tokens]), torch.ones(1, dtype=torch.float64)

    def target_law(self) -> np.ndarray:
        """P of every sequence of steps + 1 tokens under p."""
        law = np.zeros([self.vocab] * (self.steps + 1))
        for tokens in itertools.product(range(self.vocab), repeat=self.steps + 1):
            law[tokens] = math.prod(float(self.p[tokens[:i]][t]) for i, t in enumerate(tokens))
        return law

    def continued(self, law: np.ndarray, tokens: tuple[int, ...], mass: float) -> None:
        """Add `mass` on `tokens`, continued by p to steps + 1 tokens."""
        if len(tokens) == self.steps + 1:
            law[tokens] += mass
            return
        for t in range(self.vocab):
            self.continued(law, (*tokens, t), mass * float(self.p[tokens][t]))


def random_chain(steps: int, seed: int, vocab: int = 3, *, zeros: float = 0.0, grain: int = 0) -> Chain:
    generator = np.random.default_rng(seed)

    def distribution() -> Tensor:
        if grain:
            return torch.tensor(generator.multinomial(grain, np.full(vocab, 1 / vocab)) / grain)
        weights = generator.dirichlet(np.full(vocab, 0.7)) * (generator.random(vocab) >= zeros)
        weights = weights if weights.sum() > 0 else np.eye(vocab)[generator.integers(vocab)]
        return torch.tensor(weights / weights.sum())

    prefixes = [t for n in range(steps + 1) for t in itertools.product(range(vocab), repeat=n)]
    return Chain(
        {t: distribution() for t in prefixes},
        {t: distribution() for t in prefixes[: -(vocab**steps)]},
        vocab,
        steps,
    )


def supremum(holds: Callable[[Tensor], Tensor], rows: int) -> Tensor:
    """sup{u ∈ [0, 1]: holds(u)} of a condition that holds below its threshold, by bisection; [rows]."""
    low, high = torch.zeros(rows, dtype=torch.float64), torch.ones(rows, dtype=torch.float64)
    for _ in range(52):
        middle = (low + high) / 2
        yes = holds(middle)
        low, high = torch.where(yes, middle, low), torch.where(yes, high, middle)
    return (low + high) / 2


def decide(chain: Chain, drafts: Tensor, rule: Rule, accept: Tensor, residual: Tensor) -> Verification:
    target, draft = chain.batch(drafts)
    return verify(drafts, target, draft, rule=rule, accept=accept, residual=residual)


def chances(chain: Chain, drafts: Tensor, rule: Rule) -> Tensor:
    """The threshold of each coin, [drafts, steps], with those before it accepting and those behind it refusing."""
    rows, steps = drafts.shape
    target, draft = chain.batch(drafts)
    residual = torch.full((rows, steps + 1), 0.5, dtype=torch.float64)
    found = []
    for i in range(steps):

        def accepts(u: Tensor, i: int = i) -> Tensor:
            coins = torch.ones(rows, steps, dtype=torch.float64)
            coins[:, :i] = 0
            coins[:, i] = u
            verdict = verify(drafts, target, draft, rule=rule, accept=coins, residual=residual)
            return verdict.accepted > i

        found.append(supremum(accepts, rows))
    return torch.stack(found, 1)


def kept_law(chance: Tensor, rule: Rule) -> Tensor:
    """P(n drafts are kept | drafts), [drafts, steps + 1], of independent coins: the first refusal, or the last win."""
    one = torch.ones(len(chance), 1, dtype=torch.float64)
    if rule == "block":
        refusals = torch.cat([(1 - chance).flip(1).cumprod(1).flip(1), one], 1)  # all coins from n on refuse
        return torch.cat([one, chance], 1) * refusals
    return torch.cat([one, chance.cumprod(1)], 1) * torch.cat([1 - chance, one], 1)


def next_law(chain: Chain, drafts: Tensor, rule: Rule, chance: Tensor, kept: int) -> Tensor:
    """The law of the next token when `kept` drafts are, [drafts, vocab]; meaningless where that cannot happen."""
    rows, steps = drafts.shape
    coins = torch.ones(rows, steps, dtype=torch.float64)
    coins[:, :kept] = 0
    if kept < steps and rule != "block":
        coins[:, kept] = (1 + chance[:, kept]) / 2
    target, draft = chain.batch(drafts)
    edges = [torch.zeros(rows, dtype=torch.float64)]
    for v in range(chain.vocab - 1):

        def below(u: Tensor, v: int = v) -> Tensor:
            residual = torch.full((rows, steps + 1), 0.5, dtype=torch.float64)
            residual[:, kept] = u
            return verify(drafts, target, draft, rule=rule, accept=coins, residual=residual).next_token <= v

        edges.append(supremum(below, rows))
    edges.append(torch.ones(rows, dtype=torch.float64))
    return torch.stack(edges, 1).diff(dim=1)


def emitted_law(chain: Chain, rule: Rule, *, best: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The exact law of the first steps + 1 tokens (a round, then p), and P(at least j accepted), j = 1 … steps."""
    drafts, mass = chain.best() if best else chain.proposals()
    chance = chances(chain, drafts, rule)
    kept = kept_law(chance, rule)
    law = np.zeros([chain.vocab] * (chain.steps + 1))
    for n in range(chain.steps + 1):
        following = next_law(chain, drafts, rule, chance, n)
        for row, tokens in enumerate(drafts.tolist()):
            weight = float(mass[row] * kept[row, n])
            if weight < 1e-13:
                continue
            for v in range(chain.vocab):
                chain.continued(law, (*tokens[:n], v), weight * float(following[row, v]))
    prefix = (mass[:, None] * kept).sum(0).flip(0).cumsum(0).flip(0)[1:]
    return law, prefix.numpy()


# --- the law is the target's --------------------------------------------------------------------------------------


@pytest.mark.parametrize("zeros", [0.0, 0.4])
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize(
    ("rule", "best"), [("rejection", False), ("block", False), ("target_only", True), ("target_only", False)]
)
def test_what_is_emitted_follows_the_target_exactly(rule: Rule, best: bool, steps: int, zeros: float) -> None:
    chain = random_chain(steps, seed=steps, zeros=zeros)
    law, _ = emitted_law(chain, rule, best=best)
    np.testing.assert_allclose(law, chain.target_law(), atol=1e-11)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_match_follows_the_target_exactly(steps: int) -> None:
    """Its law is piecewise constant in every uniform; with p in eighths, eight midpoints of each integrate it."""
    chain = random_chain(steps, seed=steps, grain=8)
    drafts, mass = chain.proposals()
    middles = (torch.arange(8, dtype=torch.float64) + 0.5) / 8
    residual = torch.cartesian_prod(*[middles] * (steps + 1)).reshape(-1, steps + 1)
    law = np.zeros([3] * (steps + 1))
    prefix = np.zeros(steps)
    for row, probability in zip(drafts, mass.tolist(), strict=True):
        many = row.expand(len(residual), steps)
        verdict = decide(chain, many, "match", residual[:, :steps], residual)
        outcomes, counts = torch.cat([verdict.lengths[:, None], verdict.tokens], 1).unique(
            dim=0, return_counts=True
        )
        for (length, *tokens), count in zip(outcomes.tolist(), counts.tolist(), strict=True):
            chain.continued(law, tuple(tokens[:length]), probability * count / len(residual))
        for j in range(steps):
            prefix[j] += probability * float((verdict.accepted > j).double().mean())
    np.testing.assert_allclose(law, chain.target_law(), atol=1e-12)
    np.testing.assert_allclose(prefix, products(chain, lambda p, q: p * q), atol=1e-12)


@pytest.mark.parametrize("rule", ["rejection", "block", "target_only"])
def test_the_coins_decide_as_the_integral_assumes(rule: Rule) -> None:
    """Independent thresholds: the first refusal ends a chain, or (block) the last win does."""
    chain = random_chain(3, seed=11, zeros=0.2)
    drafts, _ = chain.proposals()
    chance = chances(chain, drafts, rule)
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        coins = torch.rand(27, 3, generator=generator, dtype=torch.float64)
        residual = torch.rand(27, 4, generator=generator, dtype=torch.float64)
        wins = coins < chance
        expected = (wins * torch.tensor([1, 2, 3])).amax(1) if rule == "block" else wins.cumprod(1).sum(1)
        assert torch.equal(decide(chain, drafts, rule, coins, residual).accepted, expected)


def test_match_emits_what_plain_sampling_would_whatever_the_drafts() -> None:
    chain = random_chain(3, seed=5)
    drafts, _ = chain.proposals()
    generator = torch.Generator().manual_seed(1)
    residual = torch.rand(1, 4, generator=generator, dtype=torch.float64).expand(27, 4)
    plain: list[int] = []
    for i in range(4):
        plain.append(int(sample(chain.p[tuple(plain)], residual[0, i])))
    target, _ = chain.batch(drafts)
    verdict = verify(drafts, target, None, rule="match", accept=residual[:, :3], residual=residual)
    for tokens, length in zip(verdict.tokens.tolist(), verdict.lengths.tolist(), strict=True):
        assert tokens[:length] == plain[:length]
    assert verdict.lengths.max() == 4


# --- acceptance ---------------------------------------------------------------------------------------------------


def products(chain: Chain, overlap: Callable[[float, float], float]) -> list[float]:
    """A_j = Σ over prefixes of Π overlap(p_i, q_i)."""
    found = []
    for j in range(1, chain.steps + 1):
        total = 0.0
        for tokens in itertools.product(range(chain.vocab), repeat=j):
            total += math.prod(
                overlap(float(chain.p[tokens[:i]][t]), float(chain.q[tokens[:i]][t]))
                for i, t in enumerate(tokens)
            )
        found.append(total)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_acceptance_has_its_closed_forms(seed: int) -> None:
    """A_j: Σ Π min(p, q); Π p(argmax q); and Σ q min(1, r_j, r_j r_{j−1}, …) with r = p/q for block."""
    chain = random_chain(3, seed=20 + seed)
    rejection, block = (emitted_law(chain, rule)[1] for rule in ("rejection", "block"))
    np.testing.assert_allclose(rejection, products(chain, min), atol=1e-12)

    best, _ = chain.best()
    along = chain.batch(best)[0][0, :3].gather(1, best[0, :, None])[:, 0]
    np.testing.assert_allclose(emitted_law(chain, "target_only", best=True)[1], along.cumprod(0), atol=1e-12)

    drafts, mass = chain.proposals()
    target, draft = chain.batch(drafts)
    ratio = (target[:, :3] / draft).gather(2, drafts[..., None])[..., 0]
    for j in range(1, 4):
        suffixes = ratio[:, :j].flip(1).cumprod(1)
        assert block[j - 1] == pytest.approx(float((mass * suffixes.amin(1).clamp(max=1)).sum()), abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_block_keeps_at_least_as_many_as_rejection(seed: int) -> None:
    chain = random_chain(3, seed=40 + seed, zeros=0.2)
    block, rejection = emitted_law(chain, "block")[1], emitted_law(chain, "rejection")[1]
    assert block.sum() >= rejection.sum() - 1e-12


def test_the_example_of_the_block_verification_paper() -> None:
    """Two tokens, p = (⅓, ⅔), q = (⅔, ⅓), two drafts: 10/9 accepted token by token, 11/9 as a block."""
    p, q = torch.tensor([1 / 3, 2 / 3]).double(), torch.tensor([2 / 3, 1 / 3]).double()
    p, q = p / p.sum(), q / q.sum()
    prefixes = [t for n in range(3) for t in itertools.product(range(2), repeat=n)]
    chain = Chain(dict.fromkeys(prefixes, p), dict.fromkeys(prefixes, q), 2, 2)
    assert emitted_law(chain, "rejection")[1].sum() == pytest.approx(10 / 9, abs=1e-6)
    assert emitted_law(chain, "block")[1].sum() == pytest.approx(11 / 9, abs=1e-6)


# --- edges of the rules -------------------------------------------------------------------------------------------


def uniforms(batch: int, steps: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    accept = torch.rand(batch, steps, generator=generator, dtype=torch.float64)
    return accept, torch.rand(batch, steps + 1, generator=generator, dtype=torch.float64)


def random_batch(batch: int, steps: int, vocab: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """drafts drawn from q, target p, draft q; float32, as a model gives them."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(batch, steps + 1, vocab, generator=generator).mul(1.5).softmax(-1)
    draft = torch.randn(batch, steps, vocab, generator=generator).mul(1.5).softmax(-1)
    drafts = sample(draft, torch.rand(batch, steps, generator=generator))
    return drafts, target, draft


def run(
    drafts: Tensor, target: Tensor, draft: Tensor | None, rule: Rule, seed: int = 0, **options: object
) -> Verification:
    accept, residual = uniforms(*drafts.shape, seed)
    return verify(drafts, target, draft, rule=rule, accept=accept, residual=residual, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", ["rejection", "block"])
@pytest.mark.parametrize("seed", range(3))
def test_equal_distributions_accept_everything(rule: Rule, seed: int) -> None:
    drafts, target, _ = random_batch(200, 4, 9, seed)
    draft = target[:, :4].clone()
    drafts = sample(draft, uniforms(200, 4, seed + 9)[0])
    assert (run(drafts, target, draft, rule, seed).accepted == 4).all()


@pytest.mark.parametrize("rule", ["rejection", "block"])
def test_a_rejection_by_round_off_falls_back_to_the_target(rule: Rule) -> None:
    """p = q up to a factor below 1: (p − q)₊ is zero everywhere, and a coin close to 1 refuses."""
    q = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    p = q * (1 - 1e-9)
    coins = torch.tensor([[1 - 1e-12]], dtype=torch.float64)
    residual = torch.tensor([[0.6, 0.0]], dtype=torch.float64)
    verdict = verify(
        torch.tensor([[0]]), p.expand(1, 2, 3), q.expand(1, 1, 3), rule=rule, accept=coins, residual=residual
    )
    assert verdict.accepted.tolist() == [0]
    assert verdict.next_token.tolist() == [1]


@pytest.mark.parametrize("rule", ["rejection", "block"])
def test_a_refusal_by_round_off_costs_one_draft_and_not_the_chain(rule: Rule) -> None:
    """p = q at the first step and but for a factor at the second: what is refused there leaves the first kept."""
    q = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    target = torch.stack([q, q * (1 - 1e-9), q])[None]
    coins = torch.tensor([[0.9, 1 - 1e-12]], dtype=torch.float64)
    residual = torch.full((1, 3), 0.6, dtype=torch.float64)
    verdict = verify(
        torch.zeros(1, 2).long(), target, q.expand(1, 2, 3), rule=rule, accept=coins, residual=residual
    )
    assert verdict.tokens.tolist() == [[0, 1, -1]]


@pytest.mark.parametrize("rule", RULES)
def test_disjoint_supports_accept_nothing_and_emit_the_target(rule: Rule) -> None:
    drafts, target, draft = random_batch(100, 3, 8)
    target[..., 4:] = 0
    draft[..., :4] = 0
    target, draft = target / target.sum(-1, keepdim=True), draft / draft.sum(-1, keepdim=True)
    drafts = sample(draft, uniforms(100, 3, 4)[0])
    verdict = run(drafts, target, draft, rule)
    assert not verdict.accepted.any()
    assert torch.equal(verdict.next_token, sample(target[:, 0], uniforms(100, 3)[1][:, 0]))


def test_a_draft_probability_that_underflowed_still_obeys_the_target() -> None:
    """q(ŷ) = 0: kept if p(ŷ) > 0, refused if p(ŷ) = 0; never a division by zero."""
    target = torch.tensor([[[0.4, 0.6], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]])
    draft = torch.tensor([[[0.0, 1.0]]]).expand(2, 1, 2)
    for rule in ("rejection", "block"):
        verdict = run(torch.zeros(2, 1, dtype=torch.long), target, draft, rule)
        assert verdict.accepted.tolist() == [1, 0]
        assert verdict.next_token.tolist() == [0, 1]


@pytest.mark.parametrize("rule", RULES)
def test_after_a_whole_chain_the_next_token_is_of_the_distribution_behind_it(rule: Rule) -> None:
    """p_{γ+1}, not p_γ as Bebop's Algorithm 3 prints."""
    target = torch.eye(4)[None, :3]  # p_1 → 0, p_2 → 1, p_3 → 2
    verdict = run(torch.tensor([[0, 1]]), target, target[:, :2], rule)
    assert verdict.tokens.tolist() == [[0, 1, 2]]
    assert verdict.accepted.tolist() == [2]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(3))
def test_greedy_rows_keep_a_draft_if_and_only_if_it_is_the_argmax(rule: Rule, seed: int) -> None:
    _, target, draft = random_batch(300, 3, 3, seed)
    best = target.argmax(-1)
    drafts = sample(draft, uniforms(300, 3, seed + 1)[0])
    greedy = processed(target.log(), SamplingParams(temperature=0)).probs
    verdict = run(drafts, greedy, draft, rule, seed)
    kept = (drafts == best[:, :3]).cumprod(1).sum(1)
    assert torch.equal(verdict.accepted, kept)
    expected = torch.where(torch.arange(4) <= kept[:, None], best, -1)
    assert torch.equal(verdict.tokens, expected)
    assert (verdict.logprobs[verdict.tokens >= 0] == 0).all()
    assert kept.unique().numel() == 4


# --- batches ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_a_row_alone_is_decided_as_in_its_batch(rule: Rule, seed: int) -> None:
    drafts, target, draft = random_batch(6, 3, 5, seed)
    accept, residual = uniforms(6, 3, seed)
    counts = torch.tensor([3, 2, 1, 0, 3, 3])
    remaining = torch.tensor([9, 9, 9, 9, 2, 0])
    whole = verify(
        drafts,
        target,
        draft,
        rule=rule,
        accept=accept,
        residual=residual,
        counts=counts,
        remaining=remaining,
        eos=[4],
    )
    for i in range(6):
        n = int(counts[i])
        part = verify(
            drafts[i : i + 1, :n],
            target[i : i + 1, : n + 1],
            draft[i : i + 1, :n],
            rule=rule,
            accept=accept[i : i + 1, :n],
            residual=residual[i : i + 1, : n + 1],
            remaining=remaining[i : i + 1],
            eos=[4],
        )
        for name in ("accepted", "next_token", "lengths", "finished", "valid"):
            assert getattr(part, name).item() == getattr(whole, name)[i].item(), name
        length = int(part.lengths)
        assert torch.equal(part.tokens[0, :length], whole.tokens[i, :length])
        assert torch.equal(part.logprobs[0, :length], whole.logprobs[i, :length])


@pytest.mark.parametrize("rule", RULES)
def test_what_lies_beyond_a_rows_drafts_is_not_read(rule: Rule) -> None:
    drafts, target, draft = random_batch(50, 3, 5)
    counts = torch.arange(50) % 4
    clean = run(drafts, target, draft, rule, counts=counts)
    assert (clean.accepted <= counts).all()
    for i, n in enumerate(counts.tolist()):
        drafts[i, n:] = 3
        target[i, n + 1 :] = math.nan
        draft[i, n:] = math.nan
    dirty = run(drafts, target, draft, rule, counts=counts)
    for name in vars(clean):
        torch.testing.assert_close(getattr(dirty, name), getattr(clean, name), equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("rule", RULES)
def test_a_negative_draft_ends_the_drafts(rule: Rule) -> None:
    drafts, target, draft = random_batch(50, 3, 5)
    shorter = run(drafts, target, draft, rule, counts=torch.ones(50, dtype=torch.long))
    drafts[:, 1] = -1
    assert torch.equal(run(drafts, target, draft, rule).tokens, shorter.tokens)


@pytest.mark.parametrize("rule", RULES)
def test_without_drafts_it_is_plain_sampling(rule: Rule) -> None:
    target = random_batch(50, 0, 6)[1]
    verdict = run(torch.zeros(50, 0, dtype=torch.long), target, target[:, :0], rule)
    assert torch.equal(verdict.tokens[:, 0], sample(target[:, 0], uniforms(50, 0)[1][:, 0]))
    assert not verdict.accepted.any()


# --- truncation and log-probabilities -----------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_truncation_cuts_what_would_have_been_emitted(rule: Rule, seed: int) -> None:
    drafts, target, draft = random_batch(60, 3, 5, seed)
    draft = (draft + 3 * target[:, :3]) / 4  # so that chains get long
    free = run(drafts, target, draft, rule, seed)
    remaining = torch.arange(60) % 6
    cut = run(drafts, target, draft, rule, seed, remaining=remaining, eos=(1, 3))
    assert torch.equal(free.accepted, cut.accepted)
    for i in range(60):
        tokens = free.tokens[i, : free.lengths[i]].tolist()
        end = next((j + 1 for j, t in enumerate(tokens) if t in (1, 3)), None)
        expected = tokens[:end][: int(remaining[i])]
        assert cut.tokens[i].tolist() == expected + [-1] * (4 - len(expected))
        assert int(cut.lengths[i]) == len(expected)
        done = len(expected) == int(remaining[i]) or expected[-1] in (1, 3)
        assert bool(cut.finished[i]) == done
    assert cut.valid.all()


@pytest.mark.parametrize("rule", RULES)
def test_log_probabilities_are_the_targets(rule: Rule) -> None:
    drafts, target, draft = random_batch(80, 3, 5)
    verdict = run(drafts, target, draft, rule, remaining=torch.arange(80) % 5)
    for i, length in enumerate(verdict.lengths.tolist()):
        for j in range(4):
            if j < length:
                assert verdict.logprobs[i, j] == target[i, j, verdict.tokens[i, j]].log()
            else:
                assert verdict.logprobs[i, j].isnan()


# --- sick rows and wrong shapes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("poison", [0.0, math.nan])
def test_a_sick_target_stops_its_row_only_if_it_is_reached(rule: Rule, poison: float) -> None:
    drafts, target, draft = random_batch(300, 3, 5)
    draft = (draft + 3 * target[:, :3]) / 4
    target[::2, 2] = poison
    verdict = run(drafts, target, draft, rule)
    assert (verdict.lengths[::2] <= 2).all()
    sick = verdict.lengths == verdict.accepted
    assert torch.equal(sick, ~verdict.valid)
    assert (verdict.next_token[sick] == -1).all()
    assert not sick[1::2].any()
    assert 0 < int(sick.sum()) < 150
    assert not verdict.logprobs[verdict.tokens >= 0].isnan().any()


@pytest.mark.parametrize("sick", ["target", "draft"])
@pytest.mark.parametrize("rule", ["rejection", "block"])
@pytest.mark.parametrize("poison", [0.0, math.nan])
def test_the_tokens_before_a_sick_row_are_as_without_it(rule: Rule, poison: float, sick: str) -> None:
    """A chain of two whose second step is sick emits its first token by the law of p, exactly."""
    chain = random_chain(2, seed=3)
    for v in range(3):
        (chain.p if sick == "target" else chain.q)[(v,)] = torch.full((3,), poison, dtype=torch.float64)
    drafts = torch.tensor([[v, 0] for v in range(3)])
    chance = chances(chain, drafts, rule)
    kept = kept_law(chance, rule)
    refused = next_law(chain, drafts, rule, chance, 0)
    first = torch.zeros(3, dtype=torch.float64)
    for v in range(3):
        first[v] += chain.q[()][v] * (1 - kept[v, 0])
        first += torch.where(kept[v, 0] > 0, chain.q[()][v] * kept[v, 0], 0.0) * refused[v]
    torch.testing.assert_close(first, chain.p[()], atol=1e-11, rtol=0)
    np.testing.assert_allclose(1 - kept[:, 0], (chain.p[()] / chain.q[()]).clamp(max=1), atol=1e-11)


def test_shapes_and_rules_that_do_not_fit_are_refused() -> None:
    drafts, target, draft = random_batch(2, 3, 5)
    accept, residual = uniforms(2, 3)
    good = {"rule": "rejection", "accept": accept, "residual": residual}
    for message, arguments, options in [
        ("unknown rule", (drafts, target, draft), {"rule": "typical"}),
        ("steps \\+ 1", (drafts, target[:, :3], draft), {}),
        ("needs the draft", (drafts, target, None), {}),
        ("vocabularies", (drafts, target, draft[..., :4]), {}),
        ("accept", (drafts, target, draft), {"accept": accept[:, :2]}),
        ("residual", (drafts, target, draft), {"residual": accept}),
    ]:
        with pytest.raises(ValueError, match=message):
            verify(*arguments, **{**good, **options})  # type: ignore[arg-type]


# --- rounds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_a_request_does_not_see_its_batch_through_its_streams(rule: Rule) -> None:
    """Round after round by position: the same request, alone and among others, emits the same tokens."""
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(6, 6, generator=generator).softmax(-1)
    q = torch.randn(6, 6, generator=generator).softmax(-1)

    def decode(seeds: list[int]) -> list[list[int]]:
        streams, text = Streams.of(seeds), [[0] for _ in seeds]
        for _ in range(6):
            starts = torch.tensor([len(t) for t in text])
            fresh = rule == "block"
            u = streams.uniforms("draft", starts, 3, per_round=fresh)
            last = torch.tensor([t[-1] for t in text])
            drafts = []
            for i in range(3):
                drafts.append(sample(q[drafts[-1] if i else last], u[:, i]))
            seen = torch.stack([last, *drafts], 1)
            verdict = verify(
                seen[:, 1:],
                p[seen],
                q[seen[:, :3]],
                rule=rule,
                accept=streams.uniforms("accept", starts, 3, per_round=fresh),
                residual=streams.uniforms("residual", starts, 4, per_round=fresh),
            )
            for t, new, n in zip(text, verdict.tokens.tolist(), verdict.lengths.tolist(), strict=True):
                t.extend(new[:n])
        return text

    seeds = [7, 8, 9, 10]
    together = decode(seeds)
    assert [decode([s])[0] for s in seeds] == together
    assert decode(seeds[::-1]) == together[::-1]
    assert len({tuple(t) for t in together}) == 4
