"""Plans, atomic rewards and streams: identities and closed forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st

from noria.core.errors import ConfigError, DataError
from noria.core.judging.items import Checklist, Verdict
from noria.editing.checklists.items import EditItem, checklist_from_json, checklist_to_json, part
from noria.editing.plans import format_output, normalised, parse_plan
from noria.editing.rewards.atomic import cognitive_reward, fails_required, visual_reward
from noria.editing.rewards.streams import StreamSettings, expand, mask_for, stream_advantages
from noria.editing.types import RULES


def item(identity: str, path: str = "cognitive", **more: Any) -> EditItem:
    return EditItem(identity, f"{identity}?", path, **more)


def verdicts(**values: str) -> list[Verdict]:
    return [Verdict(name, value) for name, value in values.items()]  # type: ignore[arg-type]


# -- plans ------------------------------------------------------------------------------------------------------------


@given(st.text(max_size=80), st.text(min_size=1, max_size=80))
def test_an_output_that_was_written_is_read_again(thinking: str, plan: str) -> None:
    tags = ("<think>", "</think>", "<answer>", "</answer>")
    read = parse_plan(format_output(thinking, plan))
    if any(tag in thinking + plan for tag in tags) or not plan.strip():
        return
    assert read.ok
    assert read.text == plan.strip()
    assert read.thinking == thinking.strip()


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        ("", "missing <think>"),
        ("paint it", "missing <think>"),
        ("<think>a</think>paint it", "missing <answer>"),
        ("<think>a<answer>b</answer></think>", "tags out of order"),
        ("<think><think>a</think></think><answer>b</answer>", "a tag is there twice"),
        ("<think>a</think><answer>b</answer><answer>c</answer>", "a tag is there twice"),
        ("<think>a</think><answer>b</answer> and more", "text outside of the tags"),
        ("<think>a</think><answer>  </answer>", "empty plan"),
        ("<think>a</think><answer>" + "word " * 20_000 + "</answer>", "plan too long"),
        ("x" * 300_000, "too long"),
    ],
    ids=[
        "empty",
        "bare",
        "no-answer",
        "nested",
        "nested-think",
        "two",
        "after",
        "blank",
        "20k-words",
        "endless",
    ],
)
def test_a_broken_output_has_no_plan_and_says_why(output: str, problem: str) -> None:
    read = parse_plan(output)
    assert (read.text, read.problem, read.ok) == ("", problem, False)


def test_a_template_may_have_opened_the_thinking() -> None:
    assert parse_plan("worked it out</think><answer>paint</answer>").text == "paint"
    assert parse_plan("<answer>paint</answer>", need_thinking=False).text == "paint"
    assert not parse_plan("<answer>paint</answer>").ok


def test_plans_that_differ_in_blanks_are_one_render() -> None:
    assert normalised(" paint\n it  red ") == normalised("paint it red")
    assert normalised("cafe\u0301") == normalised("café")


# -- atomic rewards ---------------------------------------------------------------------------------------------------


def test_r_cog_is_the_weighted_share_of_good_answers() -> None:
    items = Checklist((item("a"), item("b", weight=2.0), item("c", good="no"), item("d", "visual")))
    reward = cognitive_reward(items, verdicts(a="yes", b="no", c="no", d="no"))
    assert reward.value == pytest.approx(2 / 4)
    assert (reward.valid, reward.invalid, reward.strict) == (3, 0, False)
    assert visual_reward(items, verdicts(a="yes", b="no", c="no", d="yes")).value == 1.0


def test_invalid_is_neither_zero_nor_a_half() -> None:
    items = Checklist((item("a"), item("b"), item("c"), item("d")))
    some = cognitive_reward(items, verdicts(a="yes", b="yes", c="yes", d="invalid"))
    assert (some.value, some.strict, some.invalid) == (1.0, None, 1)
    most = cognitive_reward(items, verdicts(a="yes"))
    assert (most.value, most.why) == (None, "invalid")
    assert cognitive_reward(Checklist(()), []).why == "empty"


def test_a_canary_voids_the_reward_and_earns_nothing() -> None:
    items = Checklist((item("a"), item("canary", good="no", role="canary")))
    assert cognitive_reward(items, verdicts(a="yes", canary="yes")).why == "canary"
    assert cognitive_reward(items, verdicts(a="no", canary="no")).value == 0.0
    assert cognitive_reward(items, verdicts(a="yes", canary="invalid")).value == 1.0


def test_only_a_valid_wrong_answer_fails_a_required_item() -> None:
    items = Checklist((item("a", required=True), item("b")))
    assert fails_required(items, verdicts(a="no", b="yes"))
    assert not fails_required(items, verdicts(a="invalid", b="no"))
    assert not fails_required(items, verdicts(a="yes", b="no"))


def test_a_checklist_comes_back_from_its_file() -> None:
    items = Checklist(
        (
            item("a", dimension="logic", role="change", evidence="it is red", required=True),
            item("b", "visual", good="no", weight=2.5, verifier="world.colour", arguments={"object": 3}),
        )
    )
    assert checklist_from_json(checklist_to_json(items)) == items
    assert [one.id for one in part(items, "visual").items] == ["b"]


@pytest.mark.parametrize(
    "entry",
    [
        {"id": "a"},
        {"id": "a", "question": "q?", "colour": 1},
        {"id": "a", "question": "q?", "weight": -1},
        {"id": "a", "question": "q?", "polarity": "maybe"},
        {"id": "a", "question": "q?", "dim": "realism"},
        {"id": "a", "question": "q?", "role": "guess"},
        {"id": "a", "question": "q?", "weight": True},
        "a?",
    ],
    ids=["bare", "unknown", "negative", "polarity", "dimension", "role", "truth", "text"],
)
def test_a_malformed_item_is_one_line(entry: Any) -> None:
    with pytest.raises(DataError) as raised:
        checklist_from_json({"cognitive": [entry]}, where="tasks.jsonl:3")
    assert "\n" not in str(raised.value)


def test_an_id_twice_is_refused() -> None:
    entry = {"id": "a", "question": "q?"}
    with pytest.raises(DataError, match="twice"):
        checklist_from_json({"cognitive": [entry], "visual": [entry]})


# -- streams ----------------------------------------------------------------------------------------------------------

REWARDS = st.lists(
    st.tuples(*(st.sampled_from([0.0, 0.25, 0.5, 1.0, math.nan]) for _ in range(2))), min_size=4, max_size=12
)


def two_groups(rows: list[tuple[float, float]]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(rows, dtype=torch.float64), torch.tensor([0, 1] * len(rows))[: len(rows)]


@settings(max_examples=50)
@given(REWARDS, st.sampled_from(RULES))
def test_advantages_are_finite_and_a_masked_row_has_none(rows: list[tuple[float, float]], rule: Any) -> None:
    rewards, group = two_groups(rows)
    advantages = stream_advantages(rewards, group, StreamSettings(rule=rule))
    assert advantages.isfinite().all()
    needs = rewards.isfinite().any(1) if rule in ("split", "gdpo") else rewards.isfinite().all(1)
    assert not advantages[~needs].any()


def test_split_is_equation_3_in_each_stream() -> None:
    nan = math.nan
    rewards = torch.tensor([[0.0, nan], [1.0, nan], [nan, 0.2], [nan, 0.6]], dtype=torch.float64)
    advantages = stream_advantages(rewards, torch.tensor([0, 0, 1, 1]), StreamSettings(), epsilon=0.0)
    half = math.sqrt(0.5)  # (r − mean) / std of two values is ± 1/√2, whatever their distance
    assert advantages.tolist() == pytest.approx([-half, half, -half, half], abs=1e-6)


def test_the_sum_hides_a_small_reward_behind_a_large_one_and_gdpo_does_not() -> None:
    # The cognitive reward varies over 0 … 1, the visual one by a hundredth.
    rewards = torch.tensor([[0.0, 0.01], [0.0, 0.0], [1.0, 0.01], [1.0, 0.0]], dtype=torch.float64)
    group = torch.zeros(4, dtype=torch.long)

    def gain(rule: Any) -> float:
        advantages = stream_advantages(rewards, group, StreamSettings(rule=rule), epsilon=0.0)
        return float(advantages[0] - advantages[1])

    assert gain("sum") < 0.05
    assert gain("gdpo") > 0.5


def test_gate_and_lexicographic_order_as_they_say() -> None:
    rewards = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.9, 0.2]], dtype=torch.float64)
    group = torch.zeros(3, dtype=torch.long)
    gate = stream_advantages(rewards, group, StreamSettings(rule="gate"))
    assert gate.argmax() == 1
    lexicographic = stream_advantages(rewards, group, StreamSettings(rule="lexicographic"))
    assert lexicographic.argsort().tolist() == [1, 0, 2]


def test_weighted_with_equal_weights_is_the_sum() -> None:
    rewards, group = two_groups([(0.0, 1.0), (0.3, 0.2), (1.0, 0.4), (0.1, 0.9), (0.5, 0.5), (0.2, 0.8)])
    both = [stream_advantages(rewards, group, StreamSettings(rule=rule)) for rule in ("sum", "weighted")]
    assert torch.equal(*both)


def test_split_renders_half_of_what_the_others_do_at_equal_rollouts() -> None:
    counts = {rule: (StreamSettings(rule=rule).rollouts, StreamSettings(rule=rule).renders) for rule in RULES}
    assert counts.pop("split") == (16, 8)
    assert set(counts.values()) == {(16, 16)}


def test_each_stream_sees_its_own_reward() -> None:
    assert mask_for("cognitive", "visual", 0.5) is None
    assert mask_for("cognitive", "cognitive", 0.5) == mask_for("both", "cognitive", 0.5) == 0.5
    rows = expand([{"task": "a"}, {"task": "b"}], StreamSettings())
    assert [(row["task"], row["stream"]) for row in rows] == [
        ("a", "cognitive"), ("a", "visual"), ("b", "cognitive"), ("b", "visual"),
    ]  # fmt: skip
    with pytest.raises(ConfigError):
        expand([{}], StreamSettings(cognitive_group=4, visual_group=8))


def test_columns_give_the_rewards_of_the_loop() -> None:
    from noria.editing.proof.bench import judgements
    from noria.editing.rewards.columns import rewards_of

    columns, lists = judgements(400)
    ours = rewards_of(columns, 400)
    loop = [visual_reward(checklist, verdicts).value for checklist, verdicts in lists]
    theirs = torch.tensor([math.nan if value is None else value for value in loop], dtype=torch.float64)
    torch.testing.assert_close(torch.from_numpy(ours), theirs, equal_nan=True)
    assert theirs.isnan().any()
