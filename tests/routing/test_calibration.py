"""The calibration: closed forms, identities, its neighbours GRPO and GDPO, and what is no number."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from noria.core.errors import CheckpointError, ConfigError
from noria.core.training.rl import group_advantages
from noria.routing.rewards.calibration import CalibrationState, calibrate
from noria.routing.rewards.calibrator import Calibrator, diagnosis
from noria.routing.rewards.components import ANSWER_COST, FORM_ANSWER_COST, Component, eligible, order
from noria.routing.rewards.config import PRESETS, preset

NAMES = ("form", "answer", "thrift")
ROWS = 24
EQUAL = {name: c.model_copy(update={"weight": 1.0}) for name, c in FORM_ANSWER_COST.items()}
rewards_of = arrays(
    np.float64, (ROWS, 3), elements=st.sampled_from([0.0, 0.25, 0.5, 1.0, math.nan, math.inf])
)
clean_of = arrays(np.float64, (ROWS, 3), elements=st.sampled_from([0.0, 0.25, 0.5, 1.0]))
groups_of = arrays(np.int64, ROWS, elements=st.integers(-2, 4))
sets_of = arrays(np.int64, ROWS, elements=st.integers(0, 2))


def run(rewards: Any, group: Any, sets: Any, name: str, **changes: Any) -> Any:
    r, g, d = (torch.as_tensor(x) for x in (rewards, group, sets))
    return calibrate(r, g, d, names=NAMES, config=preset(name, **changes))


# -- components --------------------------------------------------------------------------------------------------


def test_a_reward_counts_where_what_it_depends_on_was_good_enough() -> None:
    rewards = torch.tensor(
        [
            [1.0, 1.0, 0.9],  # all count
            [1.0, 0.0, 0.9],  # wrong: thrift does not
            [0.0, 1.0, 0.9],  # unreadable: neither does the answer
            [1.0, math.nan, 0.9],  # not scored
            [math.nan, 1.0, 0.9],
        ]
    )
    assert eligible(rewards, NAMES, FORM_ANSWER_COST).tolist() == [
        [True, True, True],
        [True, True, False],
        [True, False, False],
        [True, False, False],
        [False, False, False],
    ]


def test_components_in_a_circle_or_without_a_parent_are_refused() -> None:
    ring = {"a": Component(parents={"b": 0.5}), "b": Component(parents={"a": 0.5})}
    with pytest.raises(ConfigError, match="circle"):
        order(ring)
    with pytest.raises(ValidationError, match="circle"):
        preset("recal", ring)
    with pytest.raises(ConfigError, match="no component"):
        order({"a": Component(parents={"c": 0.5})})
    with pytest.raises(ConfigError, match="'thrift'"):
        eligible(torch.zeros(1, 3), NAMES, {n: Component() for n in NAMES[:2]})
    with pytest.raises(ValidationError, match="target"):
        preset("recal", {"other": Component()})
    with pytest.raises(ConfigError, match="no calibration"):
        preset("recall")


# -- neighbours --------------------------------------------------------------------------------------------------


@given(clean_of, groups_of)
def test_grpo_and_dr_grpo_are_the_standardised_and_the_centred_sum(r: np.ndarray, g: np.ndarray) -> None:
    mask = eligible(torch.from_numpy(r), NAMES, EQUAL)
    total = torch.where(mask, torch.from_numpy(r), 0.0).sum(1)
    for name, scale in (("grpo", "group"), ("dr_grpo", "none"), ("dapo", "group")):
        ours = run(r, g, np.zeros(ROWS, int), name, components=EQUAL)
        theirs = group_advantages(total, torch.from_numpy(g), scale=scale)  # type: ignore[arg-type]
        torch.testing.assert_close(ours.advantages, theirs, atol=1e-5, rtol=1e-4)


@given(clean_of)
def test_gdpo_is_trls_normalise_then_sum(r: np.ndarray) -> None:
    """TRL 1.16's lines for it, on groups of 8."""
    mask = eligible(torch.from_numpy(r), NAMES, EQUAL)
    rewards = torch.where(mask, torch.from_numpy(r), 0.0)
    grouped = rewards.view(-1, 8, 3)
    single = (grouped - grouped.nanmean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + 1e-4)
    total = single.reshape(-1, 3).sum(1)
    theirs = (total - total.mean()) / (total.std() + 1e-4)
    ours = run(r, np.arange(ROWS) // 8, np.zeros(ROWS, int), "gdpo", components=EQUAL)
    torch.testing.assert_close(ours.advantages, theirs.float(), atol=1e-4, rtol=1e-3)


@given(clean_of, groups_of)
def test_with_open_gates_and_one_component_all_presets_without_scaling_agree(
    r: np.ndarray, g: np.ndarray
) -> None:
    one = {"answer": Component()}
    column, group, none = (
        torch.from_numpy(r[:, [1]]),
        torch.from_numpy(g),
        torch.zeros(ROWS, dtype=torch.long),
    )
    found = [
        calibrate(column, group, none, names=["answer"], config=preset(name, one)).advantages
        for name in ("grpo", "gates", "dapo")
    ]
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])


def test_gates_keep_form_out_of_the_answers_statistics() -> None:
    """Two readable answers, one right; six unreadable. The zeros of the unreadable would make the wrong one average."""
    form = [1.0, 1.0] + [0.0] * 6
    answer = [1.0, 0.0] + [0.0] * 6
    rewards = torch.tensor([form, answer, [0.0] * 8]).T
    zero, none = np.zeros(8, int), np.zeros(8, int)
    masked, zeroed = run(rewards, zero, none, "gates"), run(rewards, zero, none, "gates", gate="zero")
    assert masked.parts[:2, 1].tolist() == pytest.approx([0.7070, -0.7070], abs=1e-3)
    assert masked.parts[2:, 1].tolist() == [0.0] * 6
    assert zeroed.parts[1, 1] == zeroed.parts[2, 1]
    assert masked.advantages[1] < zeroed.advantages[1]


# -- stage 2 -----------------------------------------------------------------------------------------------------


def binary(successes: int, size: int = 8) -> list[float]:
    return [1.0] * successes + [0.0] * (size - successes)


def answers(*successes: int) -> tuple[torch.Tensor, torch.Tensor]:
    rewards = torch.tensor([v for s in successes for v in binary(s)])[:, None]
    return rewards, torch.arange(len(rewards)) // 8


def weights(name: str, *successes: int, **variance: Any) -> list[float]:
    rewards, group = answers(*successes)
    config = preset(name, {"answer": Component()}, variance={"kind": "sigmoid"} | variance)
    done = calibrate(rewards, group, torch.zeros_like(group), names=["answer"], config=config)
    return [float(w) for w in done.weight[::8]]


def test_the_variance_weight_is_heros() -> None:
    sigma = [np.std(binary(s), ddof=1) for s in (1, 4, 8)]
    mean = np.mean(sigma)
    expected = [0.5 + 1.5 / (1 + math.exp(-5 * (s - mean))) for s in sigma]
    assert weights("recal", 1, 4, 8) == pytest.approx(expected, abs=1e-6)
    down = [0.5 + 1.5 / (1 + math.exp(5 * (s - mean))) for s in sigma]
    assert weights("recal", 1, 4, 8, direction="down") == pytest.approx(down, abs=1e-6)
    share = [s / (0.5 * math.sqrt(8 / 7)) for s in sigma]
    assert weights("recal", 1, 4, 8, kind="power", power=2) == pytest.approx([s**2 for s in share], abs=1e-6)


def test_a_trivial_group_is_louder_than_an_informative_one_until_it_is_weighted() -> None:
    rewards, group = answers(1, 4)
    none = torch.zeros_like(group)
    one = {"answer": Component()}
    plain = calibrate(rewards, group, none, names=["answer"], config=preset("gates", one)).advantages
    weighted = calibrate(rewards, group, none, names=["answer"], config=preset("no_dataset", one)).advantages
    loudest = lambda a: float(a[:8].abs().max() / a[8:].abs().max())  # noqa: E731
    assert loudest(plain) == pytest.approx(2.475 / 0.935, rel=1e-3)
    assert loudest(weighted) < 0.8 * loudest(plain)


@given(clean_of, groups_of, sets_of)
def test_rows_of_every_data_set_end_at_one_root_mean_square(
    r: np.ndarray, g: np.ndarray, d: np.ndarray
) -> None:
    group = torch.from_numpy(g) * 10 + torch.from_numpy(d)
    done = run(r, group, d, "recal", dataset={"kind": "rms", "memory": 0.0, "prior": 0.0}, epsilon=1e-12)
    for s in set(d.tolist()):
        here = torch.from_numpy(d == s) & done.alive
        if here.any():
            size = done.advantages[here].square().mean().sqrt()
            assert float(size) == pytest.approx(1.0, abs=1e-3)


@given(clean_of, groups_of, sets_of, st.floats(0.05, 20))
def test_the_scale_of_one_data_sets_rewards_does_not_matter(
    r: np.ndarray, g: np.ndarray, d: np.ndarray, factor: float
) -> None:
    """Even where nothing is divided by a group's deviation."""
    settings: dict[str, Any] = {
        "components": {"answer": Component()},
        "dataset": {"kind": "rms", "memory": 0.0, "prior": 0.0},
        "epsilon": 1e-12,
    }
    group, sets = torch.from_numpy(g) * 10 + torch.from_numpy(d), torch.from_numpy(d)
    config = preset("recal_dr", **settings)
    column = torch.from_numpy(r[:, [1]])
    scaled = torch.where(sets[:, None] == 1, column * factor, column)
    plain, other = (
        calibrate(values, group, sets, names=["answer"], config=config).advantages
        for values in (column, scaled)
    )
    torch.testing.assert_close(plain, other, atol=1e-4, rtol=1e-4)


@given(rewards_of, groups_of, sets_of, st.sampled_from(sorted(set(PRESETS) - {"gdpo"})))
def test_advantages_of_a_data_set_add_up_to_zero(
    r: np.ndarray, g: np.ndarray, d: np.ndarray, name: str
) -> None:
    """The identity that lets stage 2b leave the mean alone."""
    done = run(r, g, d, name)
    for s in set(d.tolist()):
        assert float(done.advantages[torch.from_numpy(d == s)].sum()) == pytest.approx(0.0, abs=2e-3)


def test_a_data_set_counts_as_often_as_it_is_sampled_or_like_the_others() -> None:
    rewards, group = answers(4, 4, 4, 4)
    sets = torch.tensor([0] * 24 + [1] * 8)
    one = {"answer": Component()}

    def sizes(weight: str) -> list[float]:
        rule = {"kind": "rms", "weight": weight, "memory": 0.0, "prior": 0.0}
        config = preset("recal", one, dataset=rule, variance={"kind": "none"})
        a = calibrate(rewards, group, sets, names=["answer"], config=config).advantages.abs()
        return [float(a[:24].sum()), float(a[24:].sum())]

    often, rare = sizes("proportional")
    assert often / rare == pytest.approx(3)
    often, rare = sizes("uniform")
    assert often == pytest.approx(rare)
    often, rare = sizes("sqrt")
    assert often / rare == pytest.approx(math.sqrt(3))
    assert sum(sizes("uniform")) == pytest.approx(32, rel=0.01)  # the mean weight of a row is one


def test_a_rare_data_set_leans_on_the_others_and_on_its_past() -> None:
    one = {"answer": Component()}
    rewards, group = answers(4, 4, 4, 4, 4)
    rewards[32:] *= 100.0
    sets = torch.tensor([0] * 32 + [1] * 8)

    def scale(**rule: Any) -> float:
        config = preset("recal_dr", one, dataset={"kind": "rms"} | rule)
        state = None
        for _ in range(rule.pop("times", 1)):
            done = calibrate(rewards, group, sets, names=["answer"], config=config, state=state)
            state = done.state
        return float(done.scale[1])

    alone, level = 50.0, math.sqrt((32 * 0.25 + 8 * 2500) / 40)
    assert scale(prior=0.0) == pytest.approx(alone)
    assert scale(prior=8.0) == pytest.approx(math.sqrt(alone * level))
    assert alone > scale(prior=1e9) == pytest.approx(level)
    # Remembered rows stand against the prior.
    config = preset("recal_dr", one, dataset={"kind": "rms", "memory": 0.9, "prior": 8.0})
    state, scales = None, []
    for _ in range(5):
        done = calibrate(rewards, group, sets, names=["answer"], config=config, state=state)
        state = done.state
        scales.append(float(done.scale[1]))
    assert scales == sorted(scales)
    assert abs(scales[-1] - alone) < abs(scales[0] - alone) / 2


# -- what is no number, and other bad input --------------------------------------------------------------------------


@given(rewards_of, groups_of, sets_of, st.sampled_from(sorted(PRESETS)))
def test_whatever_comes_in_finite_numbers_come_out(
    r: np.ndarray, g: np.ndarray, d: np.ndarray, name: str
) -> None:
    done = run(r, g, d, name)
    assert done.advantages.isfinite().all()
    torch.testing.assert_close(done.parts.sum(1), done.advantages, atol=1e-5, rtol=1e-5)
    nothing = ~torch.from_numpy(r).isfinite().any(1)
    assert (done.advantages[nothing] == 0).all()
    again = run(r, g, d, name)
    assert torch.equal(done.advantages, again.advantages)
    assert all(
        math.isnan(v) or math.isfinite(v)
        for v in diagnosis(done, torch.from_numpy(g), [str(x) for x in d], NAMES).values()
    )


@given(rewards_of, groups_of, sets_of, st.permutations(range(ROWS)), st.sampled_from(sorted(PRESETS)))
def test_the_order_of_rows_does_not_matter(
    r: np.ndarray, g: np.ndarray, d: np.ndarray, rows: list[int], name: str
) -> None:
    plain, other = run(r, g, d, name).advantages, run(r[rows], g[rows], d[rows], name).advantages
    torch.testing.assert_close(plain[torch.tensor(rows)], other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_nothing_to_compare_is_no_signal(name: str) -> None:
    def advantages(rewards: list[list[float]], group: list[int]) -> torch.Tensor:
        of = torch.tensor(group, dtype=torch.long)
        found: torch.Tensor = run(
            torch.tensor(rewards).reshape(-1, 3), of, torch.zeros_like(of), name
        ).advantages
        return found

    assert advantages([], []).shape == (0,)
    assert advantages([[1, 1, 1]], [0]).tolist() == [0.0]  # a group of one
    assert advantages([[1, 1, 1], [0, 0, 0]], [0, 1]).abs().max() < 1e-6
    assert advantages([[math.nan] * 3] * 4, [0] * 4).tolist() == [0.0] * 4
    assert advantages([[0.7, 1, 0.2]] * 4, [0] * 4).abs().max() < 1e-6
    assert (
        advantages([[0, 1, 1]] * 4, [0] * 4).abs().max() < 1e-6
    )  # nothing but unreadable: an empty eligible set


def test_ragged_groups_and_whole_numbers_and_half_precision() -> None:
    rewards = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0], [1, 0, 1]])
    group, sets = torch.tensor([0, 0, 0, 7, 7]), torch.tensor([0, 0, 0, 1, 1])
    whole = run(rewards, group, sets, "recal").advantages
    for kind in (torch.float16, torch.bfloat16, torch.float32):
        torch.testing.assert_close(run(rewards.to(kind), group, sets, "recal").advantages, whole)


def test_a_group_number_used_by_two_data_sets_is_two_groups() -> None:
    rewards = torch.tensor([[1.0], [0.0], [5.0], [9.0]])
    one = {"answer": Component()}
    sets = torch.tensor([0, 0, 1, 1])
    same, apart = (
        calibrate(rewards, g, sets, names=["answer"], config=preset("recal", one)).advantages
        for g in (torch.zeros(4, dtype=torch.long), torch.tensor([0, 0, 1, 1]))
    )
    assert torch.equal(same, apart)


def test_a_component_that_earns_nothing_keeps_no_group_alive() -> None:
    rewards = torch.tensor([[1.0, 1.0, 0.1], [1.0, 1.0, 0.9], [1.0, 1.0, 0.5], [1.0, 0.0, 0.5]])
    group, sets = torch.tensor([0, 0, 1, 1]), torch.zeros(4, dtype=torch.long)
    free = {n: c.model_copy(update={"weight": 0.0 if n == "thrift" else 1.0}) for n, c in EQUAL.items()}
    done = run(rewards, group, sets, "no_variance", components=free)
    assert done.alive.tolist() == [False, False, True, True]
    alone = run(rewards[2:], group[2:], sets[2:], "no_variance", components=free)
    assert torch.equal(done.advantages[2:], alone.advantages)


def test_shapes_that_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="components"):
        run(torch.zeros(4, 3), torch.zeros(4).long(), torch.zeros(5).long(), "recal")
    with pytest.raises(ValueError, match="components"):
        run(torch.zeros(4, 2), torch.zeros(4), torch.zeros(4), "recal")
    with pytest.raises(ValueError, match="lengths"):
        run(
            torch.zeros(4, 3),
            torch.zeros(4, dtype=torch.long),
            torch.zeros(4, dtype=torch.long),
            "gdpo",
            whiten="tokens",
        )


def test_a_sum_whose_parts_cancel_has_no_signal_though_its_parts_vary() -> None:
    """r₂ = 1 − r₁: the summed reward is flat, so GRPO has nothing; and equal weights cancel after normalising, too."""
    both = {"a": Component(), "answer": Component()}
    a = torch.tensor(binary(3))
    rewards = torch.stack([a, 1 - a], 1)
    zero = torch.zeros(8, dtype=torch.long)
    for name in ("grpo", "gates"):
        done = calibrate(rewards, zero, zero, names=["a", "answer"], config=preset(name, both))
        assert done.advantages.abs().max() < 1e-6
    half = both | {"a": Component(weight=0.5)}
    assert (
        calibrate(rewards, zero, zero, names=["a", "answer"], config=preset("gates", half))
        .advantages.abs()
        .min()
        > 0.1
    )


# -- memory ------------------------------------------------------------------------------------------------------


def batch(seed: int, sets: tuple[str, ...] = ("a", "b")) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    g = torch.Generator().manual_seed(seed)
    rewards = (torch.rand(32, 3, generator=g) > 0.4).float()
    return rewards, torch.arange(32) // 8, [sets[n // 8 % len(sets)] for n in range(32)]


def test_what_is_remembered_is_saved_and_restored_to_the_bit() -> None:
    ours = Calibrator(preset("recal_uniform"))
    for seed in range(3):
        ours.calibrate(*batch(seed), names=NAMES)
    again = Calibrator(preset("recal_uniform"))
    again.load_state_dict(json.loads(json.dumps(ours.state_dict())))
    one, other = (c.calibrate(*batch(9, ("b", "new")), names=NAMES) for c in (ours, again))
    assert torch.equal(one.advantages, other.advantages)
    assert ours.state_dict() == again.state_dict()
    for broken in ({}, {"datasets": ["a"]}, ours.state_dict() | {"datasets": ["a"]}, {"sigma": [[1]]}):
        with pytest.raises(CheckpointError):
            again.load_state_dict(broken)


def test_an_evaluation_changes_nothing_and_knows_new_data_sets() -> None:
    ours = Calibrator(preset("recal"))
    ours.calibrate(*batch(0), names=NAMES)
    before = ours.state_dict()
    done = ours.calibrate(*batch(1, ("never seen", "a")), names=NAMES, update=False)
    assert done.advantages.isfinite().all()
    assert ours.state_dict() == before


def test_a_state_grows_with_new_data_sets() -> None:
    state = CalibrationState.empty().grown(2)
    assert state.sigma.isnan().all()
    assert len(state.grown(1).rows) == 2
    ours = Calibrator(preset("recal"))
    ours.calibrate(*batch(0, ("a",)), names=NAMES)
    ours.calibrate(*batch(1, ("b",)), names=NAMES)
    assert ours.names == ["a", "b"]
    assert ours.state.rows.tolist() == pytest.approx([32 * 0.9, 32])


# -- diagnosis ---------------------------------------------------------------------------------------------------


def test_the_diagnosis_of_a_batch_that_is_known_by_hand() -> None:
    rewards = torch.tensor(
        [[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 0.0]]
    )
    both = {"form": Component(), "answer": Component()}
    group, names = torch.tensor([0] * 4 + [1] * 4), ["form", "answer"]
    done = calibrate(
        rewards, group, torch.tensor([0] * 4 + [1] * 4), names=names, config=preset("gates", both)
    )
    found = diagnosis(done, group, ["x"] * 4 + ["y"] * 4, names)
    assert found["conflict"] == pytest.approx(2 / 8)
    assert found["dead"] == 0
    assert found["rows/x"] == 0.5
    assert found["share/form"] + found["share/answer"] == pytest.approx(1)
    assert found["energy/x"] + found["energy/y"] == pytest.approx(1)
    alone = preset("gates", {"answer": Component()})
    one = calibrate(rewards[4:, [1]], group[4:], group[4:] * 0, names=["answer"], config=alone)
    lonely = diagnosis(one, group[4:], ["y"] * 4, ["answer"])
    assert lonely["trivial"] == pytest.approx(1)


def test_a_router_that_only_chooses_has_two_components() -> None:
    rewards = torch.tensor([[1.0, 0.9], [1.0, 0.1], [0.0, 1.0]])
    zero = torch.zeros(3, dtype=torch.long)
    done = calibrate(rewards, zero, zero, names=["answer", "thrift"], config=preset("gates", ANSWER_COST))
    assert done.advantages[0] > done.advantages[1] > done.advantages[2]
