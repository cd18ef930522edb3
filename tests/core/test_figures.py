"""Figures of several services: a unit counts once, and the moments are those of all values together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from noria.core.experiments.figures import Figure, SharedFigures, difference, forget_unit, mean_of, moments
from noria.core.storage.control import SQLControl, SQLiteControl
from noria.core.storage.postgres import PostgresControl
from tests.postgres import postgres_server


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    pytest.importorskip("pg8000")
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def control(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SQLControl]:
    if request.param == "sqlite":
        made: SQLControl = SQLiteControl(tmp_path / "control.sqlite")
    else:
        made = PostgresControl(request.getfixturevalue("postgres"))
        made.execute("DROP TABLE IF EXISTS figures", ())
    yield made
    made.close()


def drawn(seed: int, units: int = 300) -> list[Figure]:
    rng = np.random.default_rng(seed)
    return [
        (f"u{n}", "treatment" if n % 2 else "control", name, float(rng.normal(1e6, 1.0) * count), count)
        for n in range(units)
        for name in ("success", "kind")
        for count in [int(rng.integers(0, 4))]
    ]


def test_moments_are_those_of_the_units_means() -> None:
    by_arm = moments(
        [("a", "x", "f", 3.0, 2), ("a", "x", "f", 1.0, 2), ("b", "x", "f", 4.0, 2), ("c", "x", "f", 0.0, 0)]
    )
    assert by_arm == {("x", "f"): (2, 1.5, 0.5)}
    assert mean_of(by_arm, "f", "x").standard_error == pytest.approx(0.5)
    assert np.isnan(mean_of(by_arm, "f", "y").effect)
    assert np.isnan(difference(by_arm, "f", "x", "y").effect)


def test_two_services_read_what_one_with_all_of_it_would(control: SQLControl) -> None:
    one, two = SharedFigures(control, "one"), SharedFigures(control, "two")
    mine, theirs = drawn(0), drawn(1)
    one.publish("test", 7, mine)
    two.publish("test", 7, theirs)
    together = moments([*mine, *theirs])
    shared = two.moments("test", 7)
    assert shared.keys() == together.keys()
    for key, here in together.items():
        assert shared[key].number == here.number
        assert shared[key].mean == pytest.approx(here.mean, rel=1e-12)
        assert shared[key].variance == pytest.approx(here.variance, rel=1e-6)  # around a mean of 10⁶
    assert one.moments("other", 7) == one.moments("test", 8) == {}


def crowded(named: int, unnamed: int, gain: float) -> list[Figure]:
    """Users who see no difference between the arms, and conversations of a caller without users who see one."""
    rng = np.random.default_rng(0)
    figures: list[Figure] = []
    for arm in ("control", "treatment"):
        figures += [(f"{arm} {n}", arm, "f", float(rng.normal()), 1) for n in range(named)]
        shift = gain * (arm == "treatment")
        figures += [(f"{arm} c{n}", arm, "f", float(rng.normal(shift)), 1, "bot") for n in range(unnamed)]
    return figures


def test_a_crowd_weighs_at_most_as_much_as_so_many_users(control: SQLControl) -> None:
    figures = crowded(1000, 4000, gain=5.0)
    free, held = moments(figures), moments(figures, most_unnamed=100)
    assert difference(free, "f", "control", "treatment").effect == pytest.approx(4.0, abs=0.2)
    bound = difference(held, "f", "control", "treatment")
    assert bound.effect == pytest.approx(5.0 * 100 / 1100, abs=0.15)
    assert held["treatment", "f"].number == 5000
    weights = np.array([1.0 if len(one) == 5 else 100 / 4000 for one in figures if one[1] == "treatment"])
    values = np.array([one[3] for one in figures if one[1] == "treatment"])
    mean = np.average(values, weights=weights)
    variance = 5000 / 4999 * np.sum((weights * (values - mean)) ** 2) / weights.sum() ** 2
    assert held["treatment", "f"].mean == pytest.approx(mean)
    assert mean_of(held, "f", "treatment").standard_error == pytest.approx(np.sqrt(variance))

    service = SharedFigures(control, "one")
    service.publish("test", 7, figures[::2])
    SharedFigures(control, "two").publish("test", 7, figures[1::2])
    shared = service.moments("test", 7, most_unnamed=100)
    for key, here in held.items():
        assert shared[key] == pytest.approx(here, rel=1e-9)


def test_a_crowd_that_is_small_or_alone_counts_as_users_do() -> None:
    small = crowded(1000, 50, gain=1.0)
    plain = [one[:5] for one in small]
    for key, here in moments(small, most_unnamed=100).items():
        assert here == pytest.approx(moments(plain)[key], rel=1e-9)
    alone = crowded(0, 4000, gain=1.0)
    assert moments(alone, most_unnamed=100) == moments(alone)


def test_only_what_changed_is_written_and_what_is_gone_goes(control: SQLControl) -> None:
    one = SharedFigures(control, "one")
    figures = drawn(3, units=1200)  # more than one statement takes
    assert one.publish("test", 7, figures) == 2400
    assert one.publish("test", 7, figures) == 0
    unit, arm, name, total, count = figures[0]
    figures[0] = (unit, arm, name, total + 1, count + 1)
    assert one.publish("test", 7, figures) == 1
    assert one.publish("test", 7, [one for one in figures if one[0] != unit]) == 2
    left, expected = one.moments("test", 7), moments(figures[2:])
    assert {key: found.number for key, found in left.items()} == {
        k: found.number for k, found in expected.items()
    }
    assert all(left[key].mean == pytest.approx(found.mean, rel=1e-12) for key, found in expected.items())
    again = SharedFigures(control, "one")  # after a restart it knows nothing, and takes its own place
    again.publish("test", 7, figures[:2])
    assert sum(found.number for found in again.moments("test", 7).values()) == sum(
        f[4] > 0 for f in figures[:2]
    )
    again.publish("test", 8, figures)
    assert again.moments("test", 7) == {}


def test_a_unit_that_is_erased_is_in_no_row_also_of_an_experiment_that_has_ended(control: SQLControl) -> None:
    forget_unit(control, "u0")  # before anything was published
    for service, name in (("one", "ended"), ("two", "ended"), ("one", "open")):
        SharedFigures(control, service).publish(name, 7, drawn(0, units=4))
    forget_unit(control, "u0")
    assert control.execute("SELECT DISTINCT unit FROM figures ORDER BY 1", ()) == [("u1",), ("u2",), ("u3",)]
