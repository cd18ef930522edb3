"""The losses of a draft head: gradients in closed form, the chain by enumeration, chunks, masks, and faults."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from noria.core.errors import ConfigError, DataError
from noria.mtp.training import blocks, kernels
from noria.mtp.training.losses import (
    CHAIN_LOSSES,
    LOSSES,
    LossTerms,
    chain_tv,
    chain_tv_exact,
    cold_head,
    loss_from_hidden,
    loss_terms,
)
from noria.mtp.training.reads import LMHead, Reads, read_hidden
from noria.mtp.types import LossName
from tests.mtp import tv_twin
from tests.mtp.logit_losses import loss_from_logits, read_logits, row_losses

ROW_LOSSES = [name for name in LOSSES if name not in CHAIN_LOSSES]
seeds = st.integers(0, 10_000)
spreads = st.sampled_from([0.1, 1.0, 4.0, 20.0])


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def integers(high: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def gradient(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    x = at.detach().clone().requires_grad_()
    (g,) = torch.autograd.grad(function(x), x)
    return g


def plain(name: LossName, z: Tensor, t: Tensor, y: Tensor, eta: float = 3.0) -> Tensor:
    """The textbook's row loss, by softmax and autograd."""
    q, p = z.softmax(-1), t.softmax(-1).detach()
    log_q, log_p = z.log_softmax(-1), t.log_softmax(-1).detach()
    alpha = torch.minimum(p, q).sum(-1)
    kl = (p * (log_p - log_q)).sum(-1)
    share = (-eta * alpha).exp().detach()
    return {
        "ce": -log_q.gather(-1, y[..., None])[..., 0],
        "kl_div": kl,
        "rkl": (q * (log_q - log_p)).sum(-1),
        "tv": 0.5 * (p - q).abs().sum(-1),
        "nla": -alpha.log(),
        "lk_hybrid": share * kl + (1 - share) * (1 - alpha),
    }[name]


def plain_chain(name: LossName, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """The chain's loss written out term by term, [positions, steps, vocab] to [positions]."""
    q, p = z.softmax(-1), t.softmax(-1).detach()
    alpha = torch.minimum(p, q).sum(-1)
    ratio = (q / p).gather(-1, y[..., None])[..., 0].clamp(max=1)
    total = torch.zeros_like(alpha[:, 0])
    for j in range(z.shape[1]):
        term = alpha[:, j]
        for i in range(j):
            term = term * (alpha[:, i] if name == "e2e_tv" else ratio[:, i])
        total = total + term
    return 1 - total / z.shape[1]


def plain_mean(name: LossName, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
    return plain_chain(name, z, t, y).mean() if name in CHAIN_LOSSES else plain(name, z, t, y).mean()


# --- one row -------------------------------------------------------------------------------------------------


@given(seeds, spreads, st.integers(2, 40))
@settings(deadline=None)
def test_the_tv_gradient_is_balanced_and_bounded(seed: int, spread: float, vocab: int) -> None:
    """Σg = 0; ‖g‖₁ = 2S(1 − S) ≤ ½; |g_j| ≤ q_j; and α = S + Σ_{q > p} p."""
    z, t = spread * normal(5, vocab, seed=seed), spread * normal(5, vocab, seed=seed + 1)
    g = gradient(lambda x: row_losses("tv", x, t).sum(), z)
    q, p = z.softmax(-1), t.softmax(-1)
    below = torch.where(q <= p, q, 0).sum(-1)
    torch.testing.assert_close(g.sum(-1), torch.zeros(5, dtype=g.dtype), atol=1e-14, rtol=0)
    torch.testing.assert_close(g.abs().sum(-1), 2 * below * (1 - below), atol=1e-14, rtol=1e-9)
    assert (g.abs().sum(-1) <= 0.5 + 1e-14).all()
    assert (g.abs() <= q + 1e-15).all()
    assert (g <= 0)[q <= p].all()
    alpha = 1 - row_losses("tv", z, t)
    torch.testing.assert_close(alpha, below + torch.where(q > p, p, 0).sum(-1), atol=1e-14, rtol=1e-12)


def test_there_is_no_tv_gradient_at_the_target_nor_far_from_it() -> None:
    z = normal(3, 8)
    assert gradient(lambda x: row_losses("tv", x, z).sum(), z).abs().max() < 1e-15
    half = torch.tensor([[0.0] * 4 + [-math.inf] * 4])
    z, t = normal(1, 8) + half, normal(1, 8, seed=1) + half.flip(1)
    assert row_losses("tv", z, t).item() == 1
    assert not gradient(lambda x: row_losses("tv", x, t).sum(), z).any()


def test_where_both_agree_on_a_token_it_counts_as_below() -> None:
    """1[q ≤ p], not 1[q < p]: a token that is right is held where it is."""
    q, p = (
        torch.tensor([row], dtype=torch.float64)
        for row in ([0.25, 0.25, 0.125, 0.375], [0.25, 0.25, 0.375, 0.125])
    )
    g = gradient(lambda x: row_losses("tv", x, p.log()).sum(), q.log())
    torch.testing.assert_close(g, q * (0.625 - torch.tensor([[1.0, 1.0, 1.0, 0.0]])))


@pytest.mark.parametrize("name", ROW_LOSSES)
@given(seed=seeds, spread=st.sampled_from([0.1, 1.0, 4.0]))
@settings(max_examples=25, deadline=None)
def test_by_hand_and_by_autograd_agree(name: LossName, seed: int, spread: float) -> None:
    z, t = spread * normal(4, 9, seed=seed), spread * normal(4, 9, seed=seed + 1)
    y, weights = integers(9, 4, seed=seed), normal(4, seed=seed + 2)
    torch.testing.assert_close(row_losses(name, z, t, y), plain(name, z, t, y), atol=1e-12, rtol=1e-12)
    ours = gradient(lambda x: (weights * row_losses(name, x, t, y)).sum(), z)
    torch.testing.assert_close(
        ours, gradient(lambda x: (weights * plain(name, x, t, y)).sum(), z), atol=1e-10, rtol=1e-10
    )


@pytest.mark.parametrize(
    "name", ["ce", "kl_div", "rkl", "tv", "nla"]
)  # of lk_hybrid, λ is a constant to the gradient
def test_the_gradient_is_the_slope(name: LossName) -> None:
    z, t = normal(2, 3, 6).requires_grad_(), normal(2, 3, 6, seed=1)
    assert torch.autograd.gradcheck(lambda x: row_losses(name, x, t, integers(6, 2, 3)), z)


def test_speculators_take_the_teachers_best_token_for_the_cross_entropy() -> None:
    z, t = normal(7, 5), normal(7, 5, seed=1)
    torch.testing.assert_close(
        row_losses("ce", z, t), torch.nn.functional.cross_entropy(z, t.argmax(-1), reduction="none")
    )


def test_nla_is_tv_magnified_where_the_head_is_cold() -> None:
    """∇(−log α) = ∇TV / α, which does not vanish with α."""
    apart = 16 * (torch.arange(12) < 6)
    z, t = normal(1, 12) - apart, normal(1, 12, seed=1) + apart
    alpha = 1 - row_losses("tv", z, t)
    g = {
        name: gradient(lambda x, n=name: row_losses(n, x, t).sum(), z) for name in ("tv", "nla", "lk_hybrid")
    }
    torch.testing.assert_close(g["nla"], g["tv"] / alpha)
    assert g["tv"].abs().sum() < 1e-5
    assert g["nla"].abs().sum() > 1
    assert g["lk_hybrid"].abs().sum() > 1


@given(seeds, spreads)
@settings(deadline=None)
def test_pinsker(seed: int, spread: float) -> None:
    z, t = spread * normal(6, 11, seed=seed), normal(6, 11, seed=seed + 1)
    for name in ("kl_div", "rkl"):
        assert (row_losses("tv", z, t) <= (row_losses(name, z, t) / 2).sqrt() + 1e-12).all()


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_leads_to_the_target(name: LossName) -> None:
    """From a warm start, and for `ce` over every token in its proportion."""
    t = torch.tensor([[[0.5, 0.3, 0.15, 0.05]]], dtype=torch.float64).log().expand(20, 2, 4)
    y = torch.tensor([0] * 10 + [1] * 6 + [2] * 3 + [3])[:, None].expand(20, 2)
    z = (normal(1, 2, 4) / 2).requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.05)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 300)
        optimizer.zero_grad()
        loss_from_logits(name, z.expand(20, 2, 4), t, y).loss.backward()
        optimizer.step()
    torch.testing.assert_close(z[0].softmax(-1).detach(), t[0].exp(), atol=5e-3, rtol=0)


# --- the chain -----------------------------------------------------------------------------------------------


@given(seeds, st.integers(1, 6), st.booleans())
@settings(deadline=None)
def test_the_weights_of_the_chain_are_its_gradient(seed: int, gamma: int, dead: bool) -> None:
    alpha = torch.rand(3, gamma, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if dead:
        alpha[0, gamma // 2] = 0
    w = -gamma * gradient(lambda a: chain_tv(a).sum(), alpha)
    assert (w >= 0).all()
    for k in range(gamma):
        later = sum(alpha[:, k + 1 : j + 1].prod(-1) for j in range(k, gamma))
        torch.testing.assert_close(w[:, k], alpha[:, :k].prod(-1) * later, atol=1e-15, rtol=1e-12)


def test_the_chain_of_a_constant_rate_is_a_geometric_series() -> None:
    """L = 1 + γ(1 − loss) = (1 − α^{γ+1}) / (1 − α)."""
    loss = chain_tv(torch.full((5,), 0.7, dtype=torch.float64)).item()
    assert 1 + 5 * (1 - loss) == pytest.approx((1 - 0.7**6) / 0.3, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_exact_estimate_has_no_bias_and_neither_has_its_gradient(seed: int) -> None:
    """Over y ~ p, enumerated: E Â_j = A_j = Σ_y Π_{i≤j} min(p_i, q_i), which the product of overlaps misses."""
    vocab, gamma = 4, 3
    paths = list(itertools.product(range(vocab), repeat=gamma))
    sizes = [vocab**j for j in range(gamma)]
    z = [2 * normal(n, vocab, seed=seed + j) for j, n in enumerate(sizes)]
    t = [2 * normal(n, vocab, seed=seed + 10 + j) for j, n in enumerate(sizes)]
    at = torch.tensor(
        [
            [sum(y * vocab ** (i - 1 - n) for n, y in enumerate(path[:i])) for i in range(gamma)]
            for path in paths
        ]
    )
    y = torch.tensor(paths)

    def along(tables: list[Tensor]) -> Tensor:
        """The conditional logits met along every path [paths, steps, vocab]."""
        return torch.stack([table[at[:, i]] for i, table in enumerate(tables)], dim=1)

    p = along(t).softmax(-1).gather(-1, y[..., None])[..., 0]

    def exact(tables: list[Tensor]) -> Tensor:
        q = along(tables).softmax(-1).gather(-1, y[..., None])[..., 0]
        return torch.stack(
            [torch.minimum(p, q)[:, : j + 1].prod(-1).sum() / vocab ** (gamma - 1 - j) for j in range(gamma)]
        )

    def estimate(tables: list[Tensor], name: LossName) -> Tensor:
        reads = read_logits(along(tables), along(t), y, reads=("log_draft",))
        assert reads.log_draft is not None
        assert reads.log_target is not None
        if name == "e2e_tv":
            loss = chain_tv(reads.overlap)
        else:
            loss = chain_tv_exact(reads.overlap, reads.log_draft - reads.log_target)
        return (p.prod(-1) * loss).sum()

    truth = 1 - exact(z).mean()
    assert estimate(z, "e2e_tv_exact").item() == pytest.approx(truth.item(), abs=1e-12)
    assert abs(estimate(z, "e2e_tv").item() - truth.item()) > 1e-4
    inputs = [table.clone().requires_grad_() for table in z]
    ours = torch.autograd.grad(estimate(inputs, "e2e_tv_exact"), inputs)
    theirs = torch.autograd.grad(1 - exact(inputs).mean(), inputs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)


def test_earlier_passes_learn_from_later_steps() -> None:
    """Step 2's hidden state comes from step 1's: the gradient runs through the chain."""
    head, teacher, first = LMHead(normal(9, 4)), normal(5, 2, 4, seed=1), normal(5, 4, seed=2)
    turn = normal(4, 4, seed=3)

    def chain(h: Tensor) -> Tensor:
        return torch.stack([h, (h @ turn).tanh()], dim=1)

    y = torch.zeros(5, 2, dtype=torch.int64)
    ours = gradient(
        lambda h: loss_from_hidden("e2e_tv", chain(h), head, teacher=teacher, chunk_rows=3).loss, first
    )
    theirs = gradient(
        lambda h: plain_mean("e2e_tv", chain(h) @ head.weight.T, teacher @ head.weight.T, y), first
    )
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-9)


# --- through the LM head -------------------------------------------------------------------------------------

POSITIONS, STEPS, HIDDEN, VOCAB = 5, 3, 6, 17


class Setting:
    """A small head, and the same loss without chunks by PyTorch's own autograd."""

    def __init__(self, dtype: torch.dtype = torch.float64, **options: Any) -> None:
        self.weight, self.bias = normal(VOCAB, HIDDEN, dtype=dtype), normal(VOCAB, seed=1, dtype=dtype)
        self.student = normal(POSITIONS, STEPS, HIDDEN, seed=2, dtype=dtype)
        self.teacher = normal(POSITIONS, STEPS, HIDDEN, seed=3, dtype=dtype)
        self.tokens = integers(VOCAB, POSITIONS, STEPS)
        self.options = options

    def head(self, weight: Tensor | None = None, bias: Tensor | None = None) -> LMHead:
        weight, bias = self.weight if weight is None else weight, self.bias if bias is None else bias
        return LMHead(weight, bias, **self.options)

    def ours(self, name: LossName, student: Tensor, **more: Any) -> LossTerms:
        more = {"teacher": self.teacher, "tokens": self.tokens, "head": self.head()} | more
        return loss_from_hidden(name, student, **more)

    def eager(self, name: LossName, student: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        def logits(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
            z = (h @ w.T + b) * self.options.get("scale", 1.0)
            cap = self.options.get("softcap")
            return z if cap is None else cap * (z / cap).tanh()

        z, t = logits(student, weight, bias), logits(self.teacher, self.weight, self.bias)
        return plain_mean(name, z, t, self.tokens)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("chunk", [1, 4, 15, 100, None])
def test_chunks_change_nothing(name: LossName, chunk: int | None) -> None:
    s = Setting()
    torch.testing.assert_close(
        s.ours(name, s.student, chunk_rows=chunk).loss, s.eager(name, s.student, s.weight, s.bias)
    )
    ours = gradient(lambda h: s.ours(name, h, chunk_rows=chunk).loss, s.student)
    theirs = gradient(lambda h: s.eager(name, h, s.weight, s.bias), s.student)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("options", [{}, {"scale": 0.4}, {"softcap": 2.0}, {"scale": 3.0, "softcap": 1.5}])
def test_the_lm_head_may_train_and_scale_and_cap(name: LossName, options: dict[str, float]) -> None:
    """Its gradient comes from the student's use alone, though the teacher reads with the same weight."""
    s = Setting(**options)
    inputs = [x.clone().requires_grad_() for x in (s.student, s.weight, s.bias)]
    theirs = torch.autograd.grad(s.eager(name, *inputs), inputs)
    for chunk in (2, 15):
        head = s.head(*inputs[1:])
        loss = s.ours(name, inputs[0], head=head, chunk_rows=chunk, train_head=True).loss
        for a, b in zip(torch.autograd.grad(loss, inputs), theirs, strict=True):
            torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)
        frozen = s.ours(name, inputs[0], head=head, chunk_rows=chunk).loss
        (alone,) = torch.autograd.grad(frozen, inputs[0])
        torch.testing.assert_close(alone, theirs[0], atol=1e-12, rtol=1e-9)


def test_only_the_student_learns() -> None:
    s = Setting()
    student, teacher, weight, bias = (
        x.clone().requires_grad_() for x in (s.student, s.teacher, s.weight, s.bias)
    )
    loss_from_hidden("lk_hybrid", student, LMHead(weight, bias), teacher=teacher).loss.backward()
    assert student.grad is not None
    assert teacher.grad is weight.grad is bias.grad is None
    z, t = normal(4, 5).requires_grad_(), normal(4, 5, seed=1).requires_grad_()
    row_losses("rkl", z, t).sum().backward()
    assert t.grad is None
    assert not row_losses("rkl", z.detach(), t).requires_grad


@pytest.mark.parametrize(
    "slopes", [("overlap",), ("kl", "log_draft"), ("reverse_kl", "overlap", "kl", "log_draft")]
)
def test_what_is_read_has_its_slope(slopes: Any) -> None:
    s = Setting(softcap=3.0)

    def read(h: Tensor) -> tuple[Tensor, ...]:
        reads = read_hidden(h, s.head(), teacher=s.teacher, tokens=s.tokens, reads=slopes, chunk_rows=4)
        return tuple(getattr(reads, name) for name in slopes)

    assert torch.autograd.gradcheck(read, s.student.clone().requires_grad_())


def test_a_read_without_a_slope_has_no_gradient() -> None:
    s = Setting()
    student = s.student.clone().requires_grad_()
    reads = read_hidden(student, s.head(), teacher=s.teacher, reads=("overlap", "kl"), slopes=("kl",))
    assert reads.kl is not None
    assert reads.kl.requires_grad
    assert not reads.overlap.requires_grad
    with torch.no_grad():
        quiet = read_hidden(student, s.head(), teacher=s.teacher)
    assert not quiet.overlap.requires_grad
    assert torch.equal(quiet.overlap, reads.overlap)


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("train_head", [False, True])
def test_steps_may_share_a_row_of_the_teacher(chunk: int, train_head: bool) -> None:
    """Position t's step k has the teacher of position t + k; computed once for all of them."""
    s = Setting()
    backbone = normal(POSITIONS + STEPS, HIDDEN, seed=9)
    rows = torch.arange(POSITIONS)[:, None] + torch.arange(1, STEPS + 1)
    for name in LOSSES:
        results = []
        for teacher in ({"teacher": backbone[rows]}, {"teacher": backbone, "teacher_rows": rows}):
            h, w = s.student.clone().requires_grad_(), s.weight.clone().requires_grad_()
            loss = s.ours(name, h, head=s.head(w), chunk_rows=chunk, train_head=train_head, **teacher).loss
            results.append([loss, *torch.autograd.grad(loss, [h, w] if train_head else [h])])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)


def test_the_teacher_may_be_logits_or_have_a_head_of_its_own() -> None:
    s = Setting()
    other = LMHead(normal(VOCAB, 4, seed=7), scale=0.5)
    hidden = normal(POSITIONS, STEPS, 4, seed=8)
    rows = integers(POSITIONS * STEPS, POSITIONS, STEPS, seed=4)
    for name in LOSSES:
        ways = [
            {"teacher": hidden, "teacher_head": other},
            {"teacher": None, "teacher_logits": other.logits(hidden)},
        ]
        ways.append({**ways[0], "teacher": hidden.reshape(-1, 4)[rows]})
        ways.append(
            {**ways[1], "teacher_logits": ways[1]["teacher_logits"].reshape(-1, VOCAB), "teacher_rows": rows}
        )
        a, b, c, d = (s.ours(name, s.student, chunk_rows=4, **way).loss for way in ways)
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(c, d)
        assert name == "ce" or abs(float(a - c)) > 1e-6


def test_work_is_done_for_valid_rows_and_once_a_teachers_row() -> None:
    s = Setting()

    def work(name: LossName = "tv", **more: Any) -> float:
        """Multiplications by the LM head, in rows."""
        with FlopCounterMode(display=False) as flops:
            s.ours(name, s.student.clone().requires_grad_(), **more)
        return float(flops.get_total_flops() / (2 * HIDDEN * VOCAB))

    every = POSITIONS * STEPS
    for name in LOSSES:  # student, teacher, and one for each read that has a gradient
        assert work(name) == (4 if name in ("lk_hybrid", "e2e_tv_exact") else 3) * every
    with torch.no_grad():
        assert work() == 2 * every
    assert work(valid=some_valid()) == 3 * int(some_valid().sum())
    assert work("e2e_tv", valid=some_valid()) == 3 * STEPS * int(some_valid().all(-1).sum())
    shared = torch.arange(STEPS).expand(POSITIONS, STEPS)
    assert work(teacher=s.teacher[0], teacher_rows=shared) == 2 * every + STEPS


# --- precision and memory ------------------------------------------------------------------------------------


def test_bfloat16_logits_are_read_in_float32() -> None:
    """The softmax of 50 000 tokens in bfloat16 would lose the tail; the values given are exact in float64 too."""
    z, t = (normal(3, 50_000, seed=n).to(torch.bfloat16) for n in range(2))
    for name in ROW_LOSSES:
        low, high = row_losses(name, z, t), row_losses(name, z.double(), t.double())
        assert low.dtype == torch.float32
        torch.testing.assert_close(low.double(), high, atol=1e-6, rtol=2e-5)
        g = gradient(lambda x, n=name: row_losses(n, x, t).sum(), z)
        assert g.dtype == torch.bfloat16
        exact = gradient(lambda x, n=name: row_losses(n, x, t.double()).sum(), z.double())
        torch.testing.assert_close(g.double(), exact, atol=1e-9, rtol=2**-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("train_head", [False, True])
def test_hidden_states_keep_their_type(dtype: torch.dtype, train_head: bool) -> None:
    s, exact = Setting(dtype=dtype), Setting()
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    for name in LOSSES:
        h, w = s.student.clone().requires_grad_(), s.weight.clone().requires_grad_()
        loss = s.ours(name, h, head=s.head(w), train_head=train_head, chunk_rows=4).loss
        loss.backward()
        assert loss.dtype == torch.float32
        assert h.grad is not None
        assert h.grad.dtype == dtype
        truth = gradient(lambda x, n=name: exact.eager(n, x, exact.weight, exact.bias), exact.student)
        assert float((h.grad.double() - truth).norm() / truth.norm()) < tolerance * (
            1 if dtype == torch.float32 else 6
        )
        assert float(loss.detach()) == pytest.approx(
            float(exact.eager(name, exact.student, exact.weight, exact.bias)), rel=tolerance
        )
        if train_head:
            assert w.grad is not None
            assert w.grad.dtype == dtype


def test_the_gradient_of_a_bfloat16_head_is_summed_in_float32() -> None:
    """A thousand chunks of one row each lose no more than one chunk of a thousand rows."""
    weight, student = normal(5, 4, dtype=torch.bfloat16), normal(1000, 1, 4, seed=1, dtype=torch.bfloat16)
    teacher = student + 1
    grads = []
    for chunk in (1, 1000):
        w = weight.clone().requires_grad_()
        terms = loss_from_hidden("tv", student, LMHead(w), teacher=teacher, chunk_rows=chunk, train_head=True)
        (terms.loss * terms.weight).backward()
        assert w.grad is not None
        grads.append(w.grad.double())
    assert float((grads[0] - grads[1]).norm() / grads[1].norm()) < 0.01


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor) and not x._is_view()]
        self.elements = max([self.elements, *(x.numel() for x in made)])
        return out


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("train_head", [False, True])
def test_no_more_logits_than_a_chunk_exist(name: LossName, train_head: bool) -> None:
    vocab, hidden, positions, chunk = 1000, 8, 40, 16
    weight = normal(vocab, hidden, dtype=torch.float32).requires_grad_()
    student = normal(positions, 3, hidden, seed=1, dtype=torch.float32).requires_grad_()
    teacher = normal(positions, 3, hidden, seed=2, dtype=torch.float32)
    tokens = integers(vocab, positions, 3)
    with Largest() as memory:
        loss_from_hidden(
            name,
            student,
            LMHead(weight),
            teacher=teacher,
            tokens=tokens,
            chunk_rows=chunk,
            train_head=train_head,
        ).loss.backward()
    assert memory.elements == chunk * vocab


def test_a_chunk_is_gone_before_the_next_comes() -> None:
    """Live memory at its highest: some five tensors of one chunk, however many rows there are."""
    vocab, hidden, chunk = 4096, 4, 16
    weight = normal(vocab, hidden, dtype=torch.float32)

    def peak(rows: int) -> float:
        student = normal(rows, 1, hidden, dtype=torch.float32).requires_grad_()
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        ) as profile:
            loss_from_hidden(
                "tv", student, LMHead(weight), teacher=student.detach() + 1, chunk_rows=chunk
            ).loss.backward()
        live = highest = 0
        for event in profile.profiler.kineto_results.events():  # type: ignore[union-attr]
            if event.name() == "[memory]":
                live += event.nbytes()
                highest = max(highest, live)
        return highest / (4 * chunk * vocab)

    few, many = peak(2 * chunk), peak(12 * chunk)
    assert few < 6
    assert many == pytest.approx(few, abs=0.1)


def test_the_fused_kernel_can_take_the_place_of_the_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its twin, which runs here, too."""
    s = Setting(dtype=torch.float32, softcap=4.0)
    for name in ("tv_forward", "tv_backward"):
        monkeypatch.setattr(kernels, name, getattr(tv_twin, name))
    results = []
    for fused in (False, True):
        monkeypatch.setattr(blocks, "_fusible", lambda z, wanted, f=fused: f and wanted == ("overlap",))
        z = normal(POSITIONS, STEPS, VOCAB, dtype=torch.float32)
        for train_head in (False, True):
            h, w = s.student.clone().requires_grad_(), s.weight.clone().requires_grad_()
            terms = s.ours("e2e_tv", h, head=s.head(w), chunk_rows=4, train_head=train_head)
            results.append([terms.loss, *torch.autograd.grad(terms.loss, [h, w] if train_head else [h])])
        t = normal(POSITIONS, STEPS, VOCAB, seed=1, dtype=torch.float32)
        results.append([gradient(lambda x, t=t: row_losses("nla", x, t).sum(), z)])
    for ours, theirs in zip(results[:3], results[3:], strict=True):
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-5)


# --- what counts ---------------------------------------------------------------------------------------------


def some_valid() -> Tensor:
    valid = torch.ones(POSITIONS, STEPS, dtype=torch.bool)
    valid[1, 2] = valid[3, 0] = valid[4] = False
    return valid


@pytest.mark.parametrize("name", LOSSES)
def test_a_mask_leaves_rows_out_and_broken_chains_with_them(name: LossName) -> None:
    s, valid = Setting(), some_valid()
    z, t = s.head().logits(s.student), s.head().logits(s.teacher)
    if name in CHAIN_LOSSES:
        truth, counts = plain_chain(name, z, t, s.tokens)[[0, 2]].mean(), valid.all(-1, keepdim=True) & valid
    else:
        truth, counts = plain(name, z, t, s.tokens)[valid].mean(), valid
    sick, sick_teacher, tokens = s.student.clone(), s.teacher.clone(), s.tokens.clone()
    sick[~valid], sick_teacher[~valid], tokens[~valid] = math.nan, math.inf, -100
    alpha = torch.minimum(z.softmax(-1), t.softmax(-1)).sum(-1)
    per_step = [alpha[:, k][counts[:, k]].mean() for k in range(STEPS)]
    for terms in (
        s.ours(name, sick, teacher=sick_teacher, tokens=tokens, valid=valid, chunk_rows=2),
        loss_from_logits(name, s.head().logits(sick), s.head().logits(sick_teacher), tokens, valid),
    ):
        torch.testing.assert_close(terms.loss, truth)
        assert terms.count == terms.weight == (2 if name in CHAIN_LOSSES else 10)
        assert terms.excluded == 0
        torch.testing.assert_close(terms.acceptance, torch.stack(per_step))
        assert torch.equal(terms.overlap.isfinite(), counts)
    g = gradient(lambda h: s.ours(name, h, teacher=sick_teacher, tokens=tokens, valid=valid).loss, sick)
    assert not g[~counts].any()
    assert g[counts].abs().sum(-1).all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("victim", ["student", "teacher"])
def test_rows_that_are_not_finite_are_counted_and_spoil_nothing(
    name: LossName, poison: float, victim: str
) -> None:
    """The loss and gradients are those of the batch without the row; without its position, if over the chain."""
    s = Setting()
    sick = {"student": s.student.clone(), "teacher": s.teacher.clone()}
    sick[victim][2, 1] = poison
    valid = torch.ones(POSITIONS, STEPS, dtype=torch.bool)
    valid[2, 1] = False
    for train_head in (False, True):
        results = []
        for student, teacher, mask in (
            (sick["student"], sick["teacher"], None),
            (s.student, s.teacher, valid),
        ):
            h, w = student.clone().requires_grad_(), s.weight.clone().requires_grad_()
            terms = s.ours(
                name, h, teacher=teacher, valid=mask, head=s.head(w), train_head=train_head, chunk_rows=4
            )
            results.append([terms.loss, *torch.autograd.grad(terms.loss, [h, w] if train_head else [h])])
            assert terms.excluded == (mask is None)
            assert terms.count == (POSITIONS - 1 if name in CHAIN_LOSSES else POSITIONS * STEPS - 1)
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, atol=1e-14, rtol=1e-10)


def test_a_gradient_that_is_nan_stays_with_the_row_that_caused_it() -> None:
    """0 · ∂log α/∂α is NaN where α is: it comes back from a loss that only masks its value."""
    s = Setting()
    sick = s.student.clone()
    sick[2, 1] = math.nan
    for train_head in (False, True):
        h, w = sick.clone().requires_grad_(), s.weight.clone().requires_grad_()
        reads = read_hidden(h, s.head(w), teacher=s.teacher, train_head=train_head, chunk_rows=4)
        loss = torch.where(reads.finite, reads.overlap.log(), 0.0).sum()
        grads = torch.autograd.grad(loss, [h, w] if train_head else [h])
        assert all(g.isfinite().all() for g in grads)
        assert not grads[0][2, 1].any()


@pytest.mark.parametrize("name", ROW_LOSSES)
def test_a_sick_row_of_logits_is_nan_and_has_no_gradient(name: LossName) -> None:
    t, y = normal(3, 5, seed=1), integers(5, 3)
    for poison in (math.nan, math.inf):
        z = normal(3, 5)
        healthy = gradient(lambda x: row_losses(name, x, t, y).sum(), z)
        z[1, 2] = poison
        assert row_losses(name, z, t, y).isnan().tolist() == [False, True, False]
        g = gradient(lambda x: row_losses(name, x, t, y).sum(), z)
        assert not g[1].any()
        assert torch.equal(g[[0, 2]], healthy[[0, 2]])


def test_a_token_without_probability_is_no_sickness_unless_the_loss_is_infinite() -> None:
    z, t = normal(2, 5), normal(2, 5, seed=1)
    t[0, 3] = z[0, 3] = -math.inf
    t[1, 4] = -math.inf
    q, p = z.softmax(-1), t.softmax(-1)
    reads = read_logits(z, t, torch.tensor([0, 0]), reads=("kl", "log_draft"))
    assert reads.finite.all()
    torch.testing.assert_close(reads.overlap, torch.minimum(p, q).sum(-1))
    torch.testing.assert_close(reads.kl, torch.where(p > 0, p * (p.log() - q.log()), 0).sum(-1))
    backwards = read_logits(z, t, reads=("reverse_kl",))
    assert backwards.finite.tolist() == [True, False]  # q has mass where p has none
    for name in ("kl_div", "lk_hybrid", "tv"):
        assert gradient(lambda x, n=name: row_losses(n, x, t).sum(), z).isfinite().all()
    g = gradient(lambda x: row_losses("rkl", x[:1], t[:1]).sum(), z)
    assert g.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_padding_of_the_vocabulary_has_no_part_in_it(name: LossName) -> None:
    s = Setting()
    w, b = torch.cat([s.weight, normal(3, HIDDEN, seed=8)]), torch.cat([s.bias, torch.full((3,), 30.0)])
    padded = LMHead(w.requires_grad_(), b, vocab_size=VOCAB)
    for train_head in (False, True):
        h = s.student.clone().requires_grad_()
        loss = s.ours(name, h, head=padded, train_head=train_head, chunk_rows=4).loss
        torch.testing.assert_close(loss, s.ours(name, s.student).loss)
        grads = torch.autograd.grad(loss, [h, w] if train_head else [h])
        torch.testing.assert_close(grads[0], gradient(lambda x: s.ours(name, x).loss, s.student))
        if train_head:
            assert not grads[1][VOCAB:].any()
            assert grads[1][:VOCAB].any()
    logits = [LMHead(w.detach(), b).logits(x) for x in (s.student, s.teacher)]
    torch.testing.assert_close(
        loss_from_logits(name, *logits, s.tokens, vocab_size=VOCAB).loss, s.ours(name, s.student).loss
    )
    g = gradient(lambda z: loss_from_logits(name, z, logits[1], s.tokens, vocab_size=VOCAB).loss, logits[0])
    assert not g[..., VOCAB:].any()


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_anything_valid_trains_nothing(name: LossName) -> None:
    s = Setting()
    nothing = torch.zeros(POSITIONS, STEPS, dtype=torch.bool)
    for train_head in (False, True):
        h, w = s.student.clone().requires_grad_(), s.weight.clone().requires_grad_()
        terms = s.ours(name, h, valid=nothing, head=s.head(w), train_head=train_head)
        terms.loss.backward()
        assert terms.loss == terms.count == terms.weight == 0
        assert h.grad is not None
        assert not h.grad.any()
        assert terms.acceptance.isnan().all()
        assert terms.warning is None


def test_steps_may_weigh_differently() -> None:
    s, valid = Setting(), some_valid()
    beta = [1.0, 0.6, 0.36]
    rows = plain("ce", s.head().logits(s.student), s.head().logits(s.teacher), s.tokens)
    weights = torch.tensor(beta).double().expand(POSITIONS, STEPS)[valid]
    terms = s.ours("ce", s.student, valid=valid, step_weights=beta)
    torch.testing.assert_close(terms.loss, (rows[valid] * weights).sum() / weights.sum())
    torch.testing.assert_close(terms.loss * terms.weight, (rows[valid] * weights).sum())


def test_a_cold_head_is_told_apart() -> None:
    t = normal(4, 3, 50, seed=1)
    cold, warm = 8 * normal(4, 3, 50), t + normal(4, 3, 50) / 4
    y = integers(50, 4, 3)
    for name in LOSSES:
        message = loss_from_logits(name, cold, 8 * t, y).warning
        assert (message is not None) == (name in ("tv", "e2e_tv", "e2e_tv_exact"))
        assert message is None or (name in message and "lk_hybrid" in message)
        assert loss_from_logits(name, warm, t, y).warning is None
    assert cold_head("tv", 0.1999)
    assert cold_head("tv", 0.2) is None


# --- errors --------------------------------------------------------------------------------------------------


def reads_of(*names: str) -> Reads:
    x = torch.rand(2, 3)
    return Reads(x, torch.ones(2, 3, dtype=torch.bool), **dict.fromkeys(names, x))


Z, HEAD, H = torch.zeros(2, 3, 4), LMHead(torch.zeros(4, 5)), torch.zeros(2, 3, 5)


def read(*, vocab_size: int | None = None, **options: Any) -> Reads:
    return read_hidden(H, LMHead(HEAD.weight, vocab_size=vocab_size), teacher=H, **options)


@pytest.mark.parametrize(
    ("kind", "word", "call"),
    [
        (ConfigError, "no loss 'mse'", lambda: loss_terms("mse", reads_of())),
        (ConfigError, "needs kl", lambda: loss_terms("lk_hybrid", reads_of())),
        (ConfigError, "needs log_draft", lambda: loss_terms("e2e_tv_exact", reads_of())),
        (ConfigError, "weights of its own", lambda: loss_terms("e2e_tv", reads_of(), step_weights=[1, 1, 1])),
        (ConfigError, "3 steps", lambda: loss_terms("tv", reads_of(), step_weights=[1, 1])),
        (ConfigError, "3 steps", lambda: loss_terms("tv", reads_of(), step_weights=[1, 1, -1])),
        (
            DataError,
            "axis of steps",
            lambda: loss_terms("tv", Reads(torch.rand(()), torch.ones((), dtype=torch.bool))),
        ),
        (DataError, "mask", lambda: loss_terms("tv", reads_of(), torch.ones(3, 2, dtype=torch.bool))),
        (DataError, "needs the tokens", lambda: loss_from_hidden("e2e_tv_exact", H, HEAD, teacher=H)),
        (DataError, "vocabulary of 5", lambda: read(vocab_size=5)),
        (DataError, "vocabulary of 0", lambda: read(vocab_size=0)),
        (DataError, "out of 4", lambda: read(tokens=torch.full((2, 3), 4))),
        (DataError, "one a row", lambda: read(tokens=torch.zeros(6, dtype=torch.int64))),
        (DataError, "one bool a row", lambda: read(valid=torch.ones(2, 3))),
        (ConfigError, "no read", lambda: read(reads=("entropy",))),
        (ConfigError, "one teacher", lambda: read_hidden(H, HEAD)),
        (ConfigError, "one teacher", lambda: read_hidden(H, HEAD, teacher=H, teacher_logits=Z)),
        (ConfigError, "chunks of 0", lambda: read_hidden(H, HEAD, teacher=H, chunk_rows=0)),
        (DataError, "LM head of 5", lambda: read_hidden(Z, HEAD, teacher=H)),
        (DataError, "LM head of 5", lambda: read_hidden(H, HEAD, teacher=Z)),
        (DataError, "rows", lambda: read_hidden(H, HEAD, teacher=H[:1])),
        (DataError, "padded", lambda: read_hidden(H, HEAD, teacher_logits=torch.zeros(2, 3, 6))),
        (
            DataError,
            "padded",
            lambda: read_hidden(H, HEAD, teacher=H, teacher_head=LMHead(torch.zeros(6, 5))),
        ),
        (
            DataError,
            "teacher_rows: 6 to 6 out of 6",
            lambda: read_hidden(H, HEAD, teacher=H, teacher_rows=torch.full((2, 3), 6)),
        ),
    ],
)
def test_what_does_not_fit_is_said(kind: type[Exception], word: str, call: Callable[[], Any]) -> None:
    with pytest.raises(kind, match=word):
        call()
