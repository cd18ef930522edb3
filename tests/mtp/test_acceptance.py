"""Acceptance by closed form, by summing over every text, and by verifying for real: the three agree."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from noria.core.errors import ConfigError, DataError
from noria.mtp.acceptance import chains as acc, rates as steps
from noria.mtp.acceptance.sampling import sample
from noria.mtp.acceptance.verify import verify

RULES: tuple[Any, ...] = ("rejection", "target_only", "match", "block")


def law(*shape: int, seed: int, sharp: float = 1.5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (sharp * torch.randn(*shape, generator=generator, dtype=torch.float64)).softmax(-1)


def tables(vocab: int, steps: int, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """p_i and q_i for every prefix: [vocab] * (i − 1) + [vocab]."""
    target = [law(*[vocab] * i, seed=10 * seed + i) for i in range(1, steps + 1)]
    draft = [
        (0.6 * p.log() + 0.4 * law(*p.shape, seed=10 * seed + 5 + i).log()).softmax(-1)
        for i, p in enumerate(target)
    ]
    return target, draft


def along(table: list[Tensor], text: tuple[int, ...]) -> Tensor:
    """The rows that a chain forced along the text reads, [steps, vocab]."""
    return torch.stack([step[text[:i]] for i, step in enumerate(table)])


def enumerated_prefix_rates(target: list[Tensor], draft: list[Tensor], rule: Any) -> Tensor:
    """The exact A_j of a small vocabulary [steps], by summing over all prefixes; p and q as `tables` gives them."""
    mass = drafted = torch.ones((), dtype=torch.float64)
    rates = []
    for p, q in zip(target, draft, strict=True):
        if rule == "block":
            drafted = drafted[..., None] * q
            mass = torch.minimum(mass[..., None] * p, drafted)
        elif rule == "target_only":
            best = torch.nn.functional.one_hot(q.argmax(-1), q.shape[-1])
            mass = mass[..., None] * p * best
        else:
            mass = mass[..., None] * (p * q if rule == "match" else torch.minimum(p, q))
        rates.append(mass.sum())
    return torch.stack(rates)


# -- one step ---------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 30), st.integers(0, 10_000), st.floats(0.1, 6))
def test_one_step_is_what_the_table_says(vocab: int, seed: int, sharp: float) -> None:
    p, q = law(5, vocab, seed=seed, sharp=sharp), law(5, vocab, seed=seed + 1, sharp=sharp)
    rate = {rule: steps.acceptance_rate(p, q, rule) for rule in RULES}
    tv = (p - q).abs().sum(-1) / 2
    torch.testing.assert_close(rate["rejection"], 1 - tv)
    torch.testing.assert_close(rate["block"], rate["rejection"])
    torch.testing.assert_close(rate["target_only"], p.gather(-1, q.argmax(-1, keepdim=True))[:, 0])
    torch.testing.assert_close(rate["match"], (p * q).sum(-1))
    assert (rate["match"] <= torch.minimum(rate["rejection"], p.amax(-1)) + 1e-12).all()
    assert torch.equal(steps.rejection_gain(p, q) > 0, tv < 1 - rate["target_only"])
    kept = torch.minimum(p, q) + tv[:, None] * steps.residual(p, q)
    torch.testing.assert_close(kept, p)


def test_rejection_is_not_always_the_better_rule() -> None:
    """Bebop, appendix E: a head that ranks well and is under-confident."""
    p, q = torch.tensor([0.9, 0.1]), torch.tensor([0.55, 0.45])
    assert float(steps.overlap(p, q)) == pytest.approx(0.65)
    assert float(steps.acceptance_rate(p, q, "target_only")) == pytest.approx(0.9)
    assert float(steps.rejection_gain(p, q)) == pytest.approx(-0.25)


def test_what_is_no_distribution_has_no_rate() -> None:
    good = torch.tensor([0.5, 0.5])
    for bad in ([0.5, 0.2], [1.2, -0.2], [math.nan, 1.0], [math.inf, 0.0], [0.0, 0.0]):
        for rule in RULES:
            assert steps.acceptance_rate(torch.tensor(bad), good, rule).isnan()
            assert steps.acceptance_rate(good, torch.tensor(bad), rule).isnan()
        assert steps.residual(good, torch.tensor(bad)).isnan().all()
    assert steps.is_distribution(torch.tensor([[0.3, 0.7], [0.3, 0.8]])).tolist() == [True, False]


def test_after_a_rejection_by_round_off_the_next_token_is_the_targets() -> None:
    p = law(4, 9, seed=3)
    assert torch.equal(steps.residual(p, p), p)


# -- chains -----------------------------------------------------------------------------------------------------------


def test_rates_of_a_chain_and_its_length() -> None:
    alpha = torch.tensor([0.8, 0.5, 0.25])
    prefix = acc.prefix_rates(alpha)
    torch.testing.assert_close(prefix, torch.tensor([0.8, 0.4, 0.1]))
    torch.testing.assert_close(acc.conditional_rates(prefix), alpha)
    assert float(acc.accept_length(prefix)) == pytest.approx(2.3)
    assert acc.ChainAcceptance(prefix, 1, 0).rate == pytest.approx(1.3 / 3)
    assert acc.prefix_rates(torch.tensor([0.5, 0.0, math.nan])).tolist() == [0.5, 0.0, 0.0]
    assert acc.conditional_rates(torch.tensor([0.5, 0.0, 0.0]))[1:].tolist()[0] == 0.0
    assert acc.conditional_rates(torch.tensor([0.0, 0.0]))[1].isnan()
    for alpha, gamma in ((0.6, 3), (1.0, 5), (0.3, 0)):
        alike = acc.prefix_rates(torch.full((gamma,), alpha, dtype=torch.float64))
        series = gamma + 1 if alpha == 1 else (1 - alpha ** (gamma + 1)) / (1 - alpha)
        assert float(acc.accept_length(alike)) == pytest.approx(series)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("writer", ["target", "draft"])
@pytest.mark.parametrize("seed", range(3))
def test_the_estimate_has_no_bias(rule: Any, writer: Any, seed: int) -> None:
    """Its mean over every text, weighed by the chance that its writer wrote it, is the sum over all prefixes."""
    vocab, steps = 3, 3
    target, draft = tables(vocab, steps, seed)
    exact = enumerated_prefix_rates(target, draft, rule)
    mean = torch.zeros(steps, dtype=torch.float64)
    for text in itertools.product(range(vocab), repeat=steps):
        p, q = along(target, text), along(draft, text)
        wrote = p
        if writer == "draft":
            greedy = torch.nn.functional.one_hot(q.argmax(-1), vocab).double()
            wrote = greedy if rule == "target_only" else q
        chance = float(wrote.gather(-1, torch.tensor(text)[:, None]).prod())
        if chance:
            mean += chance * acc.unbiased_prefix_rates(p, q, torch.tensor(text), rule, written_by=writer)
    torch.testing.assert_close(mean, exact, rtol=1e-12, atol=1e-14)
    assert (exact.diff() <= 1e-15).all()


@pytest.mark.parametrize("rule", RULES)
def test_what_a_round_kept_given_the_text_is_what_it_keeps_on_average(rule: Any) -> None:
    """Weighed by the chance of each text, K_j gives A_j again; and it falls with j in every single text."""
    vocab, steps = 3, 3
    target, draft = tables(vocab, steps, seed=4)
    mean = torch.zeros(steps, dtype=torch.float64)
    for text in itertools.product(range(vocab), repeat=steps):
        p, tokens = along(target, text), torch.tensor(text)
        kept = acc.kept_rates(p, along(draft, text), tokens, rule)
        assert (kept.diff() <= 0).all()
        mean += p.gather(-1, tokens[:, None]).prod() * kept
    torch.testing.assert_close(mean, enumerated_prefix_rates(target, draft, rule), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rule", RULES)
def test_rounds_of_a_decoder_stand_where_the_weights_say(rule: Any) -> None:
    """A text of known laws, easy here and hard there: rounds are simulated, and counted at every position."""
    vocab, n, gamma, runs = 4, 9, 2, 60_000
    sharp = torch.tensor([3.0, 3.0, 3.0, 0.4, 0.4, 3.0, 3.0, 3.0, 0.4])[:, None]
    p = (sharp * law(n, vocab, seed=11).log()).softmax(-1)  # of the token at each place, whatever came before
    q = (0.7 * p.log() + 0.3 * law(n, vocab, seed=12).log()).softmax(-1)
    roots = torch.arange(n) < n - gamma
    generator = torch.Generator().manual_seed(0)
    at, counts = torch.zeros(runs, dtype=torch.long), torch.zeros(n)
    kept_at = torch.zeros(gamma)
    while (here := roots[at.clamp(max=n - 1)] & (at < n)).any():
        counts += torch.bincount(at[here], minlength=n)
        places = (at[:, None] + torch.arange(gamma + 1)).clamp(max=n - 1)
        drafts = sample(q[places[:, :gamma]], torch.rand(runs, gamma, generator=generator))
        if rule == "target_only":
            drafts = q.argmax(-1)[places[:, :gamma]]
        kept = verify(
            drafts,
            p[places].float(),
            q[places[:, :gamma]].float(),
            rule=rule,
            accept=torch.rand(runs, gamma, generator=generator, dtype=torch.float64),
            residual=torch.rand(runs, gamma + 1, generator=generator, dtype=torch.float64),
        ).accepted
        kept_at += torch.stack([(kept[here] > j).sum() for j in range(gamma)])
        at = torch.where(here, at + kept + 1, n)

    texts = sample(p.expand(8000, -1, -1), torch.rand(8000, n, generator=generator))
    windows = (torch.arange(n)[:, None] + torch.arange(gamma)).clamp(max=n - 1)
    chains = p[windows].expand(8000, -1, -1, -1), q[windows].expand(8000, -1, -1, -1), texts[:, windows]
    whole = roots.expand(8000, -1)
    starts = acc.round_starts(acc.kept_rates(*chains, rule), whole)
    torch.testing.assert_close(starts.mean(0), counts.double() / runs, rtol=0, atol=0.012)
    rounds = acc.summarise(acc.unbiased_prefix_rates(*chains, rule)[whole], starts[whole])
    torch.testing.assert_close(rounds.prefix, kept_at.double() / counts.sum(), rtol=0, atol=0.008)
    alike = acc.summarise(acc.unbiased_prefix_rates(*chains, rule)[whole])
    assert abs(alike.length - rounds.length) > 0.02, "positions are another average"


def test_where_rounds_begin() -> None:
    everything, nothing = torch.ones(1, 7, 2), torch.zeros(1, 7, 2)
    roots = torch.tensor([[True] * 4 + [False] + [True] * 2])
    assert acc.round_starts(everything, roots).tolist() == [[1, 0, 0, 1, 0, 1, 0]]
    assert acc.round_starts(nothing, roots).tolist() == [[1, 1, 1, 1, 0, 1, 1]]
    broken = nothing.index_fill(1, torch.tensor([2]), math.nan)
    torch.testing.assert_close(
        acc.round_starts(broken, roots),
        torch.tensor([[1, 1, 1, math.nan, 0, 1, 1]], dtype=torch.float64),
        equal_nan=True,
    )
    with pytest.raises(DataError, match="roots"):
        acc.round_starts(everything, roots[:, 1:])


def test_the_papers_product_is_biased_from_the_second_step_on() -> None:
    target, draft = tables(3, 3, seed=1)
    exact = enumerated_prefix_rates(target, draft, "rejection")
    mean = torch.zeros(3, dtype=torch.float64)
    for text in itertools.product(range(3), repeat=3):
        p, q = along(target, text), along(draft, text)
        chance = p.gather(-1, torch.tensor(text)[:, None]).prod()
        mean += chance * acc.factorised_prefix_rates(p, q, "rejection")
    assert float(mean[0]) == pytest.approx(float(exact[0]), abs=1e-12)
    assert ((mean - exact)[1:].abs() > 1e-4).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_block_verification_never_accepts_less(seed: int) -> None:
    target, draft = tables(3, 4, seed)
    block = enumerated_prefix_rates(target, draft, "block")
    assert (block >= enumerated_prefix_rates(target, draft, "rejection") - 1e-12).all()


@pytest.mark.parametrize("rule", RULES)
def test_verification_accepts_as_often_as_the_sum_says(rule: Any) -> None:
    vocab, steps, rounds = 4, 3, 40_000
    target, draft = tables(vocab, steps + 1, seed=2)
    generator = torch.Generator().manual_seed(0)
    drafts = torch.zeros(rounds, 0, dtype=torch.long)
    probs = []
    for step in range(steps):
        q = draft[step][tuple(drafts.T)] if step else draft[0].expand(rounds, -1)
        token = q.argmax(-1) if rule == "target_only" else sample(q, torch.rand(rounds, generator=generator))
        drafts = torch.cat([drafts, token[:, None]], 1)
        probs.append(q)
    p = torch.stack(
        [target[i][tuple(drafts[:, :i].T)] if i else target[0].expand(rounds, -1) for i in range(steps + 1)],
        1,
    )
    verdict = verify(
        drafts,
        p.float(),
        torch.stack(probs, 1).float(),
        rule=rule,
        accept=torch.rand(rounds, steps, generator=generator, dtype=torch.float64),
        residual=torch.rand(rounds, steps + 1, generator=generator, dtype=torch.float64),
    )
    exact = enumerated_prefix_rates(target[:steps], draft[:steps], rule)
    for step in range(steps):
        measured = float((verdict.accepted > step).double().mean())
        error = math.sqrt(float(exact[step]) * (1 - float(exact[step])) / rounds)
        assert abs(measured - float(exact[step])) < 4 * error


def test_a_chain_ends_where_something_is_missing() -> None:
    p, q = law(2, 4, 5, seed=1), law(2, 4, 5, seed=2)
    tokens = p.argmax(-1)
    whole = acc.unbiased_prefix_rates(p, q, tokens, "rejection")
    valid = torch.tensor([[True] * 4, [True, True, False, True]])
    cut = acc.unbiased_prefix_rates(p, q, tokens, "rejection", valid=valid)
    assert torch.equal(cut[0], whole[0])
    assert torch.equal(cut[1, :2], whole[1, :2])
    assert cut[1, 2:].isnan().all()
    ended = tokens.clone()
    ended[0, 1] = -1
    after = acc.unbiased_prefix_rates(p, q, ended, "rejection")
    assert not after[0, :2].isnan().any()
    assert after[0, 2:].isnan().all()
    impossible = p.clone()
    impossible[0, 0] = torch.nn.functional.one_hot((tokens[0, 0] + 1) % 5, 5)
    assert acc.unbiased_prefix_rates(impossible, q, tokens, "rejection")[0, 1:].isnan().all()
    summary = acc.summarise(cut)
    assert (summary.count, summary.excluded) == (1, 1)
    torch.testing.assert_close(summary.prefix, whole[0].double())


def test_the_summary_takes_the_ratio_of_means() -> None:
    chains = torch.tensor([[0.9, 0.8], [0.1, 0.0]])
    summary = acc.summarise(chains)
    torch.testing.assert_close(summary.conditional, torch.tensor([0.5, 0.8], dtype=torch.float64))
    assert summary.length == pytest.approx(1.9)
    assert summary.rate == pytest.approx(0.45)
    assert acc.summarise(torch.full((3, 2), math.nan)).prefix.isnan().all()


def test_errors_say_what_is_wrong() -> None:
    p = law(2, 4, seed=1)
    with pytest.raises(DataError):
        steps.overlap(p, p[:, :3])
    with pytest.raises(ConfigError, match="typical"):
        steps.acceptance_rate(p, p, "typical")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="target or draft"):
        acc.unbiased_prefix_rates(p[None], p[None], torch.zeros(1, 2).long(), "match", written_by="me")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no product of steps"):
        acc.factorised_prefix_rates(p[None], p[None], "block")
    with pytest.raises(DataError):
        acc.unbiased_prefix_rates(p[None], p[None], torch.full((1, 2), 9), "match")
