from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from noria.blending.accounting.attribution import Displacement, Requests, displace, lift
from noria.blending.accounting.returns import PlanReturn, RetireRule, plan_returns
from noria.blending.boosting.scoring import PlanTables


def market(seed: int, requests: int = 300) -> tuple[Displacement, np.ndarray]:
    """Two plans of one boost; what the first lifts is worth three completions, what the second lifts nothing."""
    rng = np.random.default_rng(seed)
    rows = requests * 20
    y = rng.random(rows)
    mask = rng.choice(np.array([0, 0, 1, 2], np.uint64), size=rows)
    pool = Requests(y, mask, np.arange(requests + 1) * 20)
    found = displace(pool, PlanTables.of([0.0, 0.0], [0.3, 0.3]), 5)
    gain = np.where(mask == 1, 3.0, 0.05 * (rng.random(rows) < 0.5))
    return found, lift(pool, found, gain)[0]


def returns(seed: int = 0, **more: object) -> list[PlanReturn]:
    found, gains = market(seed)
    return plan_returns(found, ["good", "bad"], gains, generator=np.random.default_rng(1), **more)  # type: ignore[arg-type]


def test_the_plan_that_brings_nothing_is_advised_away_and_the_other_is_not() -> None:
    good, bad = returns()
    assert (good.retire, bad.retire) == (False, True)
    assert good.roi is not None
    assert bad.roi is not None
    assert good.roi.low > 1 > bad.roi.high
    assert bad.p_value is not None
    assert bad.p_value < 1e-6
    assert good.p_value == pytest.approx(1.0)
    assert good.spend_share is not None
    assert bad.spend_share is not None
    assert good.spend_share + bad.spend_share == pytest.approx(1.0)
    assert 0 <= bad.regret <= bad.bound <= bad.spend


def test_a_plan_without_exposures_has_no_return_and_no_advice() -> None:
    found, gains = market(0)
    nothing = {
        name: np.concatenate([getattr(found, name)[:, :1], 0 * getattr(found, name)[:, :1]], axis=1)
        for name in ("spend", "exposures", "exposures_without", "value_cost", "regret", "bound")
    }
    gains = np.concatenate([gains[:, :1], 0 * gains[:, :1]], axis=1)
    _, idle = plan_returns(
        replace(found, **nothing), ["a", "idle"], gains, generator=np.random.default_rng(0)
    )
    assert (idle.roi, idle.roi_spend, idle.p_value, idle.retire) == (None, None, None, False)


def test_days_and_shares_hold_advice_back() -> None:
    days = np.repeat(np.arange(3), 100).tolist()
    assert returns(days=days, rule=RetireRule(days=3))[1].retire
    assert returns(days=days, rule=RetireRule(days=3))[1].days_below == 3
    assert not returns(days=days, rule=RetireRule(days=4))[1].retire
    assert not returns(rule=RetireRule(share=0.9))[1].retire


def test_requests_of_one_user_are_one_observation() -> None:
    alone, together = returns()[0], returns(clusters=[n // 10 for n in range(300)])[0]
    assert alone.roi is not None
    assert together.roi is not None
    assert (alone.roi.n, together.roi.n) == (300, 30)
    assert together.roi.effect == pytest.approx(alone.roi.effect)


def test_plans_of_the_very_floor_are_hardly_ever_advised_away() -> None:
    """Gains that equal the regret in the mean, of ten plans: a false alarm in at most one in twenty worlds."""
    alarms = 0
    for seed in range(80):
        rng = np.random.default_rng(seed)
        regret = rng.random((60, 10))
        noise = rng.normal(size=(60, 10))
        found = Displacement(
            *(np.zeros((60, 1), np.int64), np.zeros((60, 10, 1), np.int64)),
            *(regret, regret, regret, np.ones(60), regret, regret, regret, np.ones(60), np.zeros(60)),
        )
        told = plan_returns(found, [str(p) for p in range(10)], regret + noise, generator=rng, resamples=10)
        alarms += any(plan.retire for plan in told)
    assert alarms <= 11  # 4 are expected; more than 11 has a chance below 0.001
