"""The proof's worlds and data: what they promise, and that the experiments run and tell the truth."""

from __future__ import annotations

import numpy as np
import pytest

from noria.blending.alignment.alignment import Alignment
from noria.blending.blender import Blender
from noria.blending.proof.arms import SPACES, WORLDS, run_aligners, run_world
from noria.blending.proof.bandit import run_bandit
from noria.blending.proof.claims import SCALES as BUDGETS, _paid_aligners, _paid_films, _paid_plans, claims
from noria.blending.proof.data import movielens, open_bandit
from noria.blending.proof.films import run_movielens
from noria.blending.snapshot import Snapshot
from noria.blending.world.world import BAD, PLANS, SCALES, SOURCES, make_world, world_plans

FILM_SETTINGS = {"min-max": [{"popularity": 1.0}], "auto": [{"shrink": 200.0}]}


def test_scores_are_on_scales_of_their_own_and_bad_plans_push_what_is_worse_than_it_looks() -> None:
    world = make_world(np.random.default_rng(0), requests=60)
    snapshot = Snapshot.of(Alignment.of_scales({s: 1 / SCALES[s] for s in SOURCES}), world_plans())
    mask = Blender(snapshot).masks(world.columns, len(world.score))
    seen = world.score / np.array([SCALES[s] for s in SOURCES])[world.source.codes]
    for bit, (name, _) in enumerate(PLANS):
        hit = (mask >> np.uint64(bit) & np.uint64(1)).astype(bool)
        assert 0.005 < hit.mean() < 0.4
        gap = (world.truth[hit] - seen[hit]).mean()
        assert gap < -0.08 if name in BAD else gap > -0.06, name
    good = ~np.isin(mask, mask[(mask >> np.uint64(8)) > 0])
    assert abs((world.truth[good] - seen[good]).mean()) < 0.01


def test_the_same_generator_draws_the_same_world() -> None:
    one, two = (make_world(np.random.default_rng(5), requests=3) for _ in range(2))
    assert one.score.tobytes() == two.score.tobytes()


def test_the_experiments_of_a_small_world_keep_what_is_proven() -> None:
    found = run_world(0, 60, 100)
    assert found["plans"]["violations"] == 0
    assert found["plans"]["bound"] >= found["plans"]["regret"] >= 0
    assert found["product"]["certificate"] > -1e-9
    assert found["legacy"]["certificate"] > -1e-9
    assert found["legacy"]["linear"]["value"] > found["legacy"]["legacy"]["value"]
    # How much of the boosts is gone depends on the unit, even in its sign: nothing may be claimed of it.
    before = dict(found["legacy"]["boosts"])
    after = before.pop("linear")
    assert min(before.values()) < after < max(before.values())
    setting = {"mean": [{"shrink": 200.0}], "isotonic": [{"shrink": 200.0}]}
    shares = run_aligners(0, 60, 200, dict.fromkeys(WORLDS, setting))
    assert shares["proportional"]["raw"] < shares["proportional"]["mean"] < shares["proportional"]["oracle"]
    assert shares["distorted"]["isotonic"] > shares["distorted"]["mean"]


def test_arms_are_treated_alike_and_a_theorem_is_no_claim() -> None:
    tuned = {world: {arm: {"shrink": 200.0} for arm in SPACES} for world in WORLDS}
    films = {"min-max": {"popularity": 1.0}, "auto": {"shrink": 200.0}}
    paid = {
        "aligners": _paid_aligners(tuned, BUDGETS["quick"]),
        "worlds": _paid_plans(BUDGETS["quick"].requests),
        "films": _paid_films(films),
    }
    rates = {arm: [0.5] for arm in ("raw", *SPACES)}
    aligners = [dict.fromkeys(WORLDS, rates)] * 2
    form = {"truth": 0.5, "value": 0.5, "hits": 0.5}
    place = {"completions": 0.5, "both": 0.5, "hits": 0.5}
    names = ("all plans", "without the worst", "without another")
    world = {
        "legacy": {"linear": form, "legacy": form},
        "product": {"linear": form, "product": form},
        "plans": dict.fromkeys(names, place),
    }
    rated = {
        "hit rate": rates,
        "forms": {"linear": form, "product": form},
        "plans": dict.fromkeys(names, place),
    }
    made = claims(aligners, [world] * 2, [rated] * 2, paid)
    assert {name for one in made for name in one.unfair(list(range(40)))} == set()
    assert not {"bound", "product-value", "films-value", "inflation"} & {one.id for one in made}
    assert all(one.overlap > 0 for one in made if one.id.startswith("films"))
    assert not any(one.overlap for one in made if not one.id.startswith("films"))


def test_movielens_is_whole() -> None:
    log = movielens()
    if log is None:
        pytest.skip("recbole is not installed")
    assert (len(log.rating), log.users, log.films) == (100_000, 943, 1682)
    assert log.rating.mean() == pytest.approx(3.52986)
    assert sorted(set(log.rating.tolist())) == [1, 2, 3, 4, 5]
    assert log.genres[0] == ("Animation", "Children's", "Comedy")


@pytest.mark.slow
def test_the_experiment_on_movielens_keeps_what_is_proven() -> None:
    found = run_movielens(0, FILM_SETTINGS)
    if found is None:
        pytest.skip("recbole is not installed")
    assert found["plans"]["violations"] == 0
    assert found["forms"]["certificate"] > -1e-9
    assert found["hit rate"]["auto"][0] > found["hit rate"]["raw"][0]


@pytest.mark.parametrize(
    ("policy", "campaign", "clicks", "items"),
    [
        ("random", "all", 38, 80),
        ("random", "men", 46, 34),
        ("random", "women", 46, 46),
        ("bts", "all", 42, 80),
        ("bts", "men", 69, 34),
        ("bts", "women", 46, 46),
    ],
)
def test_open_bandit_is_whole(policy: str, campaign: str, clicks: int, items: int) -> None:
    log = open_bandit(policy, campaign)  # type: ignore[arg-type]
    if log is None:
        pytest.skip("obp is not installed")
    assert (len(log.click), int(log.click.sum()), log.items) == (10_000, clicks, items)
    assert set(log.position.tolist()) == {1, 2, 3}
    if policy == "random":
        assert log.propensity == pytest.approx(1 / items)


def test_the_random_policys_clicks_are_within_what_the_other_log_says() -> None:
    found = run_bandit("men")
    if found is None:
        pytest.skip("obp is not installed")
    assert found["ess"] < 1000
    for name in ("ips", "snips", "dr"):
        _, low, high = found[name]
        assert low <= found["own"][2]
        assert found["own"][1] <= high


def test_packages_that_are_not_there_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noria.blending.proof.data._package", lambda name: None)
    assert movielens() is None
    assert open_bandit("random", "all") is None
    assert run_movielens(0, FILM_SETTINGS) is None
    assert run_bandit("all") is None
