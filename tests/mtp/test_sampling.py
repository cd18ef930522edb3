"""Processed distributions equal Hugging Face's; streams are uniform, independent, and nobody else's business."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy import stats
from torch import Tensor

from noria.core.errors import ConfigError
from noria.mtp.acceptance.sampling import SamplingParams, processed, sample
from noria.mtp.acceptance.streams import Purpose, Streams, _mix

torch.set_num_threads(1)
PURPOSES: tuple[Purpose, ...] = ("draft", "accept", "residual")


def normal(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def hugging_face(logits: Tensor, params: SamplingParams) -> Tensor:
    """What `generate` makes of logits [rows, vocab]: its own choice of processors, in its own order."""
    from transformers import GenerationConfig, GenerationMixin

    class Nobody(GenerationMixin):
        """Enough of a model to ask for the processors."""

        config = SimpleNamespace(is_encoder_decoder=False)

    asked = GenerationConfig(
        do_sample=True,
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
    )
    warpers = Nobody()._get_logits_processor(asked, input_ids_seq_length=1)
    return warpers(torch.zeros(len(logits), 1, dtype=torch.long), logits.float()).softmax(-1)


some_params = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.1, 0.6, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 3, 10, 500]),
    top_p=st.sampled_from([0.0, 0.3, 0.8, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
)


# --- params --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", 1e-9),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_k", -1),
        ("top_k", 2.5),
        ("top_k", True),
        ("top_p", 1.01),
        ("top_p", -0.5),
        ("min_p", 2.0),
        ("min_p", math.nan),
    ],
)
def test_a_value_out_of_range_is_told_in_one_line(field: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        SamplingParams(**{field: value})  # type: ignore[arg-type]
    assert str(caught.value).startswith(f"{field}: ")
    assert "\n" not in str(caught.value)


def test_params_are_frozen_and_comparable() -> None:
    params = SamplingParams(temperature=0.5)
    with pytest.raises(AttributeError):
        params.temperature = 1.0  # type: ignore[misc]
    assert params == SamplingParams(0.5)
    assert SamplingParams(temperature=0).greedy
    assert not params.greedy


# --- processed -----------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(some_params, st.integers(0, 10_000), st.sampled_from([torch.float32, torch.bfloat16]))
def test_it_equals_the_processors_of_hugging_face(
    params: SamplingParams, seed: int, dtype: torch.dtype
) -> None:
    """Support and values, with the ties that bfloat16 logits bring."""
    logits = normal(4, 40, seed=seed).to(dtype)
    ours, theirs = processed(logits, params).probs, hugging_face(logits, params)
    assert ours.dtype == torch.float32
    assert torch.equal(ours > 0, theirs > 0)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.lists(some_params, min_size=3, max_size=3), st.integers(0, 10_000))
def test_a_ragged_batch_is_its_rows_one_by_one(rows: list[SamplingParams], seed: int) -> None:
    rows = [*rows, SamplingParams(temperature=0)]
    logits = normal(4, 3, 20, seed=seed)
    together = processed(logits, rows)
    for i, row in enumerate(rows):
        assert torch.equal(together.probs[i], processed(logits[i], row).probs)


def test_greedy_takes_the_first_of_the_largest_and_no_filter_applies() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, -2.0]])
    params = SamplingParams(temperature=0, top_k=2, top_p=0.1, min_p=1.0)
    assert processed(logits, params).probs.tolist() == [[0, 1, 0, 0]]


def test_mass_that_just_reaches_top_p_is_enough() -> None:
    """Four equal tokens, top_p ½: two are kept, not three; the same ones as Hugging Face keeps."""
    logits, params = torch.zeros(1, 4), SamplingParams(top_p=0.5)
    assert (processed(logits, params).probs > 0).sum() == 2
    assert torch.equal(processed(logits, params).probs, hugging_face(logits, params))


def test_filters_are_applied_one_after_the_other() -> None:
    """p = (.5, .3, .15, .05): top_k 3 renormalises to (.526, .316, .158), of which .82 needs two."""
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    torch.testing.assert_close(
        processed(logits, SamplingParams(top_k=3, top_p=0.82)).probs, torch.tensor([0.625, 0.375, 0, 0])
    )
    # Without top_k the first two hold .80, and .82 needs the third.
    assert (processed(logits, SamplingParams(top_p=0.82)).probs > 0).sum() == 3


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_sick_row_is_reported_and_stays_alone(poison: float) -> None:
    logits = normal(3, 2, 10)
    params = SamplingParams(temperature=0.7, top_k=5, top_p=0.9, min_p=0.1)
    healthy = processed(logits, params)
    assert healthy.valid.all()
    logits[1, 0, 4] = poison
    sick = processed(logits, [params, SamplingParams(temperature=0), params])
    assert sick.valid.tolist() == [[True, True], [False, True], [True, True]]
    assert not sick.probs[1, 0].any()
    assert torch.equal(sick.probs[0], healthy.probs[0])
    assert torch.equal(sick.probs[2], healthy.probs[2])


def test_a_row_with_every_token_forbidden_is_not_uniform() -> None:
    logits = torch.full((1, 4), -math.inf)
    result = processed(logits, SamplingParams())
    assert not result.valid.any()
    assert not result.probs.any()
    logits[0, 2] = 0.0
    assert processed(logits, SamplingParams()).probs.tolist() == [[0, 0, 1, 0]]


@pytest.mark.parametrize("padding", [50.0, math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_padding_gets_nothing_whatever_it_holds(padding: float, temperature: float) -> None:
    logits = normal(2, 12)
    padded = torch.cat([logits, torch.full((2, 4), padding)], dim=1)
    params = SamplingParams(temperature=temperature, top_k=14, min_p=0.05)
    result = processed(padded, params, vocab=12)
    assert result.valid.all()
    assert (result.probs[:, 12:] == 0).all()
    assert torch.equal(result.probs[:, :12], processed(logits, params).probs)


def test_the_logits_are_not_written_to() -> None:
    logits = normal(2, 12)
    before = logits.clone()
    processed(logits, SamplingParams(top_k=3, top_p=0.5, min_p=0.2))
    processed(logits, [SamplingParams(top_k=3, top_p=0.5), SamplingParams(temperature=0)])
    assert torch.equal(logits, before)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="2 params"):
        processed(normal(3, 5), [SamplingParams()] * 2)
    with pytest.raises(ValueError, match="9 real tokens"):
        processed(normal(3, 5), SamplingParams(), vocab=9)
    assert processed(torch.zeros(0, 5), []).probs.shape == (0, 5)


# --- sample --------------------------------------------------------------------------------------------------


def test_sampling_inverts_the_cumulative_distribution() -> None:
    probs = torch.tensor([0.25, 0.0, 0.5, 0.25, 0.0])
    u = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 0.9999])
    assert sample(probs.expand(6, 5), u).tolist() == [0, 0, 2, 2, 3, 3]


def test_it_need_not_be_normalised() -> None:
    assert sample(torch.tensor([[3.0, 1.0]] * 2), torch.tensor([0.74, 0.76])).tolist() == [0, 1]


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.5, 1 - 2**-53, 1.0]))
def test_a_token_without_probability_is_never_drawn(seed: int, u: float) -> None:
    """Even for u = 1, which no stream gives, and for masses at the edge of what float32 holds."""
    generator = torch.Generator().manual_seed(seed)
    probs = torch.rand(8, 30, generator=generator) ** 20 * 1e-30
    probs *= torch.rand(8, 30, generator=generator) < 0.3
    probs[:, 7] = 1e-38
    token = sample(probs, torch.full((8,), u, dtype=torch.float64))
    assert (probs.gather(1, token[:, None]) > 0).all()


def test_a_row_without_mass_gives_no_token() -> None:
    probs = torch.tensor([[0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0], [0.0, 1.0]])
    assert sample(probs, torch.zeros(4)).tolist() == [-1, -1, -1, 1]


def test_a_long_flat_tail_is_reached_as_often_as_it_should() -> None:
    """70,000 tokens share 2⁻⁸ of the mass, less than float32's 2⁻²⁴ each; the default coins reach them alike."""
    tail = 70_000
    probs = torch.full((tail + 1,), 2.0**-8 / tail)
    probs[0] = 1 - 2.0**-8
    u = 1 - 2.0**-8 + (torch.arange(16, dtype=torch.float64) + 0.5) * 2.0**-8 / tail
    assert sample(probs.expand(16, -1), u).tolist() == list(range(1, 17))
    coins = draw(range(10))
    assert (coins * 2**24 % 1 != 0).any()
    assert (coins * 2**53 % 1 == 0).all()


def test_a_sum_that_creeps_over_a_zero_does_not_draw_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the parallel scan of an accelerator may."""
    exact = Tensor.cumsum
    creep = torch.tensor([0, 0, 1e-9, 0], dtype=torch.float64)
    monkeypatch.setattr(Tensor, "cumsum", lambda self, dim: exact(self, dim) + creep)
    probs = torch.tensor([0.25, 0.25, 0.0, 0.5]).double()
    assert sample(probs, torch.tensor(0.5, dtype=torch.float64)).item() == 3


# --- streams -------------------------------------------------------------------------------------------------


def draw(
    seeds: range, purpose: Purpose = "draft", *, start: int = 0, steps: int = 64, per_round: bool = False
) -> Tensor:
    starts = torch.full((len(seeds),), start)
    return Streams.of(seeds).uniforms(purpose, starts, steps, per_round=per_round)


def test_the_mixer_is_splitmix64() -> None:
    """The first outputs for seed 1234567 as published with the generator."""
    golden = 0x9E3779B97F4A7C15
    states = [(1234567 + (k + 1) * golden) % 2**64 for k in range(3)]
    outputs = [int(z) % 2**64 for z in _mix(Streams.of(states).seeds)]
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("purpose", PURPOSES)
def test_numbers_are_uniform(purpose: Purpose) -> None:
    u = draw(range(2000), purpose).flatten().numpy()
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    assert u.min() >= 0
    assert u.max() < 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_they_are_never_one(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even when all bits are set."""
    import noria.mtp.acceptance.streams as module

    monkeypatch.setattr(module, "_absorb", lambda state, word: torch.full_like(state + word, -1))
    u = Streams.of([1]).uniforms("accept", torch.tensor([0]), 1, dtype=dtype)
    assert u.dtype == dtype
    assert 0.9999999 < u.item() < 1


def grid(x: Tensor, y: Tensor) -> float:
    """p-value of a χ² test for independence on 8×8 equal cells."""
    cells = (x.flatten() * 8).long() * 8 + (y.flatten() * 8).long()
    return float(stats.chisquare(np.bincount(cells.numpy(), minlength=64)).pvalue)


def test_purposes_positions_seeds_and_rounds_are_independent() -> None:
    seeds = range(1000)
    base = draw(seeds)
    others = {
        "accept": draw(seeds, "accept"),
        "residual": draw(seeds, "residual"),
        "the next position": draw(seeds, start=1),
        "the next seed": draw(range(1, 1001)),
        "a far seed": draw(range(2**32, 2**32 + 1000)),
        "its round": draw(seeds, per_round=True),
    }
    for name, other in others.items():
        assert grid(base, other) > 1e-4, name
        assert abs(float(torch.corrcoef(torch.stack([base.flatten(), other.flatten()]))[0, 1])) < 0.02, name
    assert grid(draw(seeds, "accept"), draw(seeds, "residual")) > 1e-4
    # Two rounds that begin one apart, at the same positions.
    first, second = draw(seeds, per_round=True, steps=65)[:, 1:], draw(seeds, start=1, per_round=True)
    assert grid(first, second) > 1e-4


def test_no_two_of_them_coincide() -> None:
    """Small seeds, positions and purposes do not add up to each other: 53 bits of 38,400 numbers are all different."""
    numbers = torch.stack([draw(range(200), purpose) for purpose in PURPOSES])
    assert numbers.unique().numel() == numbers.numel()


def test_a_number_belongs_to_its_position_and_not_to_the_round() -> None:
    whole = draw(range(5), "residual", steps=10)
    assert torch.equal(draw(range(5), "residual", start=4, steps=6), whole[:, 4:])
    assert torch.equal(draw(range(5), "residual", steps=3), whole[:, :3])
    fresh = draw(range(5), "residual", steps=10, per_round=True)
    assert not (draw(range(5), "residual", start=4, steps=6, per_round=True) == fresh[:, 4:]).any()
    assert torch.equal(draw(range(5), "residual", steps=3, per_round=True), fresh[:, :3])


@given(st.lists(st.integers(-(2**63), 2**64 - 1), min_size=1, max_size=5), st.randoms())
def test_who_else_is_in_the_batch_does_not_matter(seeds: list[int], shuffler: object) -> None:
    streams = Streams.of(seeds)
    starts = torch.arange(len(seeds)) * 7
    together = streams.uniforms("draft", starts, 3)
    for i, seed in enumerate(seeds):
        alone = Streams.of([seed]).uniforms("draft", starts[i : i + 1], 3)
        assert torch.equal(together[i : i + 1], alone)
    backwards = torch.arange(len(seeds)).flip(0)
    assert torch.equal(streams.select(backwards).uniforms("draft", starts.flip(0), 3), together.flip(0))


def test_derived_requests_have_seeds_of_their_own() -> None:
    many = Streams.derived(5, 1000)
    assert many.seeds.unique().numel() == 1000
    assert torch.equal(Streams.derived(5, 10).seeds, many.seeds[:10])
    calls = [Streams.derived(5, 10, path=path).seeds for path in ((), (0,), (1,), (0, 0), (0, 1), (1, 0))]
    assert torch.cat(calls).unique().numel() == 60
    starts = torch.zeros(1000, dtype=torch.int64)
    u, v = (Streams.derived(s, 1000).uniforms("draft", starts, 64) for s in (5, 6))
    assert grid(u, v) > 1e-4
    assert grid(u[1:], v[:-1]) > 1e-4
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-3
