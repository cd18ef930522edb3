from __future__ import annotations

import math

import numpy as np
import pytest

from noria.core.errors import DataError
from noria.core.experiments.off_policy import off_policy
from noria.core.experiments.reading import Measure, read_out


def logged(rounds: int, seed: int) -> tuple[np.ndarray, ...]:
    """A log of uniform choices among five actions, and a policy that prefers the better ones; its true value last."""
    rng = np.random.default_rng(seed)
    truth = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    pi = np.array([0.05, 0.05, 0.1, 0.3, 0.5])
    action = rng.integers(5, size=rounds)
    reward = (rng.random(rounds) < truth[action]).astype(float)
    model = truth + 0.1
    predicted = model[action], np.full(rounds, model @ pi)
    return reward, np.full(rounds, 0.2), pi[action], *predicted, truth @ pi


def test_all_three_estimates_find_the_policys_value_and_cover_it() -> None:
    held = {"ips": 0, "snips": 0, "dr": 0}
    for seed in range(60):
        reward, p, pi, q, q_pi, truth = logged(800, seed)
        found = off_policy(
            reward,
            p,
            pi,
            generator=np.random.default_rng(seed),
            predicted=q,
            predicted_policy=q_pi,
            resamples=300,
        )
        for name in held:
            interval = getattr(found, name)
            held[name] += interval.low <= truth <= interval.high
            assert interval.effect == pytest.approx(truth, abs=0.12)
    assert all(count >= 50 for count in held.values())


def test_the_logs_own_policy_has_its_own_mean_and_every_round_counts() -> None:
    reward, p, *_ = logged(500, 0)
    found = off_policy(reward, p, p, generator=np.random.default_rng(0))
    assert found.ess == pytest.approx(500)
    for interval in (found.ips, found.snips):
        assert interval is not None
        assert interval.effect == pytest.approx(reward.mean())
    assert found.dr is None


def test_a_log_that_says_nothing_gives_no_number() -> None:
    rng = np.random.default_rng(0)
    p = np.full(1000, 0.5)
    pi = np.where(np.arange(1000) < 5, 1.0, 0.0)
    found = off_policy(rng.random(1000), p, pi, generator=rng)
    assert (found.ips, found.snips, found.dr) == (None, None, None)
    assert found.ess == pytest.approx(5)
    assert "worth 5.0 rounds" in found.refused
    assert off_policy([], [], [], generator=rng).refused


def test_clipping_is_counted() -> None:
    p = np.array([0.001] + [0.5] * 999)
    found = off_policy(
        np.ones(1000), p, np.full(1000, 0.5), generator=np.random.default_rng(0), most_weight=10
    )
    assert found.clipped == 1
    assert found.ips is not None
    assert found.ips.effect == pytest.approx((999 + 10) / 1000)


def test_rounds_of_one_user_are_one_observation() -> None:
    reward, p, pi, *_ = logged(600, 1)
    found = off_policy(reward, p, pi, generator=np.random.default_rng(0), clusters=np.arange(600) // 10)
    assert found.ips is not None
    assert found.ips.n == 60


@pytest.mark.parametrize(
    ("p", "pi"),
    [([0.0, 0.5], [0.5, 0.5]), ([0.5, 2.0], [0.5, 0.5]), ([0.5, 0.5], [0.5, -1.0]), ([0.5], [0.5, 0.5])],
)
def test_probabilities_that_are_none_are_refused(p: list[float], pi: list[float]) -> None:
    with pytest.raises(DataError):
        off_policy([1.0, 0.0], p, pi, generator=np.random.default_rng(0))


def test_an_ab_test_finds_its_effect_and_the_time_before_narrows_it() -> None:
    pytest.importorskip("tea_tasting")
    rng = np.random.default_rng(0)
    n = 4000
    taste = rng.gamma(4, 5, size=n)
    treated = np.arange(n) % 2 == 1
    before, views = rng.poisson(taste), rng.poisson(taste * np.where(treated, 1.05, 1.0))
    users = {
        "variant": np.where(treated, "treatment", "control").tolist(),
        "views": views,
        "views_before": before,
        "completions": rng.binomial(views, 0.4),
        "completions_before": rng.binomial(before, 0.4),
    }
    found = read_out(
        users,
        {
            "plain": Measure("views"),
            "cuped": Measure("views", before="views_before"),
            "a view": Measure("completions", "views", "completions_before", "views_before"),
        },
    )
    plain, cuped, rate = found.effects
    assert cuped.low <= 0.05 <= cuped.high
    assert cuped.high - cuped.low < 0.75 * (plain.high - plain.low)
    assert rate.low <= 0 <= rate.high
    assert rate.control == pytest.approx(0.4, abs=0.01)
    assert found.users == {"control": 2000, "treatment": 2000}
    assert found.split_p_value > 0.9
    odd = {name: np.asarray(column)[: n - 500 : 1].tolist() for name, column in users.items()}
    odd["variant"] = ["control" if i % 3 else "treatment" for i in range(n - 500)]
    assert read_out(odd, {"views": Measure("views")}).split_p_value < 1e-6


def test_users_without_a_figure_are_left_out_of_it_and_counted() -> None:
    pytest.importorskip("tea_tasting")
    rng = np.random.default_rng(1)
    variant = np.where(rng.random(300) < 0.5, "control", "treatment")
    users = {"variant": variant, "x": rng.normal(5, 1, 300), "y": np.ones(300), "z": np.full(300, np.nan)}
    users["z"][0] = 1.0
    holes = {**users, "x": users["x"].copy()}
    holes["x"][[3, 7]] = np.nan, np.inf
    measures = {name: Measure(name) for name in "xyz"}
    x, y, z = read_out(holes, measures).effects
    kept = {name: np.delete(column, [3, 7]) for name, column in users.items()}
    assert vars(x) == vars(read_out(kept, measures).effects[0]) | {"missing": 2}
    assert (y.control, y.difference, y.missing) == (1.0, 0.0, 0)
    assert math.isnan(y.low)  # where nothing varies there is no interval
    assert z.missing == 299
    assert math.isnan(z.relative)


@pytest.mark.parametrize("variants", [["a", "b"], ["control", "control"], ["control", "a", "b"]])
def test_a_test_has_a_control_and_one_other(variants: list[str]) -> None:
    pytest.importorskip("tea_tasting")
    with pytest.raises(DataError):
        read_out({"variant": variants, "x": list(range(len(variants)))}, {"x": Measure("x")})
    with pytest.raises(DataError, match="no column 'y'"):
        read_out({"variant": ["control", "a"], "x": [1, 2]}, {"y": Measure("y")})
