"""The alarm over another model's text is as rare as it says, however few tokens and documents there are."""

from __future__ import annotations

import math

import pytest
import torch

from noria.mtp.training.own_text import ALPHA, OwnText

TRIES = 600


def read(probs: torch.Tensor, drawn_from: torch.Tensor, generator: torch.Generator) -> OwnText:
    own = OwnText()
    own.add(probs, torch.multinomial(drawn_from, 1, generator=generator)[:, 0])
    return own


@pytest.mark.parametrize("tokens", [1, 5, 20, 80])
@pytest.mark.parametrize("sharpness", [0.5, 3.0, 12.0])
def test_own_text_raises_no_alarm(tokens: int, sharpness: float) -> None:
    """Simulated, over laws from nearly flat to nearly certain; an alarm in 1 of 1,000 would be right."""
    generator = torch.Generator().manual_seed(0)
    alarms = 0
    for _ in range(TRIES):
        p = (torch.randn(tokens, 30, generator=generator) * sharpness).softmax(-1)
        alarms += read(p, p, generator).foreign
    assert alarms <= 4 * ALPHA * TRIES


def test_rare_tokens_are_no_alarm() -> None:
    """A law of 99 % and many rare tokens: here a normal approximation of the surprise is wrong by far."""
    generator = torch.Generator().manual_seed(0)
    p = torch.full((20, 101), 0.01 / 100)
    p[:, 0] = 0.99
    alarms = sum(read(p, p, generator).foreign for _ in range(TRIES))
    assert alarms <= 4 * ALPHA * TRIES


def test_the_mean_likelihood_ratio_is_one() -> None:
    """Ville's inequality rests on this; over one token it is exact."""
    p = torch.tensor([0.6, 0.25, 0.1, 0.05], dtype=torch.float64)
    mean = 0.0
    for token, chance in enumerate(p.tolist()):
        own = OwnText()
        own.add(p[None], torch.tensor([token]))
        mean += chance * math.exp(own.evidence)
    assert mean == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("temperature", "sign"), [(0.6, -1), (1.6, 1)])
def test_text_of_another_temperature_is_found_in_few_tokens(temperature: float, sign: int) -> None:
    generator = torch.Generator().manual_seed(0)
    found = 0
    for _ in range(100):
        logits = torch.randn(300, 50, generator=generator) * 2
        own = read(logits.softmax(-1), (logits / temperature).softmax(-1), generator)
        found += own.foreign and math.copysign(1, own.surprise.effect) == sign
    assert found > 95


def test_text_of_another_model_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 50, generator=generator) * 2
    other = torch.randn(200, 50, generator=generator) * 2
    assert read(logits.softmax(-1), other.softmax(-1), generator).foreign


def test_round_off_is_no_alarm_in_a_long_text() -> None:
    """An engine that rounds logits draws from slightly another law; in a million tokens that is certain, and small."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 50, generator=generator) * 2
    own = OwnText()
    for _ in range(300):
        rounded = (logits + 0.05 * torch.randn(200, 50, generator=generator)).softmax(-1)
        own.add(logits.softmax(-1), torch.multinomial(rounded, 1, generator=generator)[:, 0])
    assert not own.foreign


def test_moments_are_those_of_the_law() -> None:
    generator = torch.Generator().manual_seed(0)
    p = (torch.randn(1, 20, generator=generator) * 2).softmax(-1).expand(200_000, 20)
    own = read(p, p, generator)
    assert own.tokens == 200_000
    deviation = math.sqrt(own.variance)
    assert abs(own.excess) < 4 * deviation
    nats = -p[0].double().log()
    mean = (p[0] * nats).sum()
    assert own.variance / own.tokens == pytest.approx(float((p[0] * nats**2).sum() - mean**2), rel=1e-5)


def test_tokens_of_probability_zero_are_left_to_another_check() -> None:
    own = OwnText()
    own.add(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([1, 0]))
    assert own.tokens == 1
    assert math.isfinite(own.evidence)
    assert math.isnan(OwnText().surprise.effect)
    assert not OwnText().foreign
