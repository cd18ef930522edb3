"""Alarms come when they should, and not otherwise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from noria.core.errors import ConfigError, DataError
from noria.core.statistics.intervals import Interval
from noria.mtp.data import Rows
from noria.mtp.decoding.decoder import Decoder, Request
from noria.mtp.decoding.drafter import HeadDrafter
from noria.mtp.heads.head import MTPHead
from noria.mtp.rl.monitors import DriftMonitor, EntropyMonitor
from noria.mtp.training.evaluate import evaluate_head
from noria.mtp.training.trainer import HeadTrainer
from tests.mtp.test_trainer import config_of
from tests.mtp.tiny_models import VOCAB, tiny

PREDICTED = [Interval(0.8, 0.78, 0.82, 50), Interval(0.6, 0.57, 0.63, 50)]


def served(rates: list[float], rounds: int, seed: int) -> tuple[list[int], list[int]]:
    generator = np.random.default_rng(seed)
    return [rounds] * len(rates), [int(generator.binomial(rounds, r)) for r in rates]


def test_a_head_that_accepts_as_predicted_raises_nothing() -> None:
    monitor = DriftMonitor(PREDICTED)
    assert [monitor.observe(step, *served([0.79, 0.59], 400, step)) for step in range(100)] == [None] * 100


def test_few_rounds_raise_nothing() -> None:
    assert DriftMonitor(PREDICTED).observe(0, [4, 4], [2, 1]) is None
    assert DriftMonitor(PREDICTED).observe(0, [0, 0], [0, 0]) is None


def test_a_drafter_of_another_policy_is_told_at_once() -> None:
    alarm = DriftMonitor(PREDICTED).observe(7, [300, 300], [12, 0])
    assert alarm is not None
    assert (alarm.step, alarm.kind) == (7, "unsynced")
    assert "4.0 % of drafts 1 are accepted, 80.0 % were predicted" in alarm.text


def test_a_slow_fall_is_drift_and_may_begin_at_a_later_draft() -> None:
    monitor = DriftMonitor(PREDICTED, window=3)
    kinds = []
    for step in range(20):
        alarm = monitor.observe(step, *served([0.8, 0.6 - 0.015 * step], 500, step))
        kinds.append(alarm and alarm.kind)
    assert kinds[:4] == [None] * 4
    assert kinds[-1] == "drift"
    assert monitor.observe(99, [9000, 9000], [7200, 5400]) is None, "it clears when acceptance is back"


def test_a_head_of_the_policy_before_is_caught_in_real_rollouts() -> None:
    """A trained head passes on its own policy, and is caught once the policy is another one."""
    model, other = tiny("qwen3", eos_token_id=None), tiny("qwen3", seed=8, eos_token_id=None)
    requests = [Request([i % VOCAB], 40, seed=i) for i in range(80)]
    plain = Decoder(model).generate(requests)
    rows = Rows.of(torch.tensor([[*r.prompt, *c.tokens] for r, c in zip(requests, plain, strict=True)]))
    head = MTPHead.fresh(model)
    HeadTrainer(model, head, rows[slice(0, 60)], config_of(steps=30)).train()
    predicted = evaluate_head(model, head, rows[slice(60, 80)]).rules["rejection"].rates
    monitor = DriftMonitor(predicted)
    for policy, kind in ((model, None), (other, "drift")):
        done = Decoder(policy, HeadDrafter(head), gamma=3).generate(requests)
        sums = [[sum(getattr(c, n)[i] for c in done) for i in range(3)] for n in ("drafted", "accepted")]
        alarm = monitor.observe(1, *sums)
        assert (alarm and alarm.kind) in ((kind,) if kind is None else (kind, "unsynced"))
        monitor = DriftMonitor(predicted)


def test_entropy_out_of_range_is_told_after_some_patience() -> None:
    monitor = EntropyMonitor(0.2, 0.45, margin=0.05, patience=3)
    values = [0.3, 0.55, 0.55, 0.4, 0.55, math.nan, 0.6, 0.61, 0.62, 0.3, 0.1, 0.1, 0.1]
    alarms = [monitor.observe(step, value) for step, value in enumerate(values)]
    assert [a.step for a in alarms if a] == [7, 8, 12]
    assert alarms[7] is not None
    assert "0.200 … 0.450" in alarms[7].text
    assert "train it along on TV" in alarms[7].text


def test_settings_and_counts_that_cannot_be() -> None:
    with pytest.raises(ConfigError):
        DriftMonitor(PREDICTED, window=0)
    with pytest.raises(DataError, match="score the head first"):
        DriftMonitor([Interval(math.nan, math.nan, math.nan, 0)])
    with pytest.raises(DataError, match=r"\[5\] accepted of \[4\]"):
        DriftMonitor(PREDICTED).observe(3, [4], [5])
    with pytest.raises(ConfigError):
        EntropyMonitor(0.5, 0.2)
    with pytest.raises(ConfigError):
        EntropyMonitor(0.1, math.nan)
