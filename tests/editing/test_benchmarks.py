"""RISEBench and KRIS-Bench: the released scorers' numbers with their bugs, and without; duplicates; attribution."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from noria.core.errors import DataError
from noria.core.records import read_json
from noria.editing.benchmarks.items import BenchItem, read_items
from noria.editing.benchmarks.judging import dimensions, prompt_of, prompts_digest
from noria.editing.benchmarks.running import compare, run_arm, score_items
from noria.editing.benchmarks.scoring import (
    KNOWN_BUGS,
    kris_average,
    kris_number,
    percent,
    rise_numbers,
    score_kris,
    score_rise,
    strict_score,
    summary,
)
from noria.editing.curation.difficulty import DifficultySettings, bucket, unfit
from noria.editing.curation.duplicates import Benchmark, bits_apart, near_duplicates, picture_hash, similarity
from noria.editing.data.tasks import Difficulty, Reference
from noria.editing.synthesis.proposing import Proposal, gives_away
from noria.editing.use.attribution import Matrix, advice, matrices
from tests.editing.doubles import square
from tests.editing.test_pictures import textured


def item(family: str = "causal_reasoning", **flags: Any) -> BenchItem:
    return BenchItem("1", "rise", family, "x", (Path("a.png"),), "y", flags=flags)


def said(*scores: object) -> dict[str, str | None]:
    names = ("consistency", "reasoning", "plausibility")
    return {
        name: f"**Final Score**: {score}"
        for name, score in zip(names, scores, strict=False)
        if score is not None
    }


# -- RISEBench --------------------------------------------------------------------------------------------------------


def test_the_score_is_the_published_weighting() -> None:
    assert score_rise(item(), said(5, 4, 3)).score == pytest.approx(0.3 * 5 + 0.5 * 4 + 0.2 * 3)
    assert score_rise(item(), said(5, 1, 5)).score == pytest.approx(0.5 * (0.3 * 5 + 0.5 + 0.2 * 5))
    assert score_rise(item(), said(1, 1, 1)).score == 1.0
    logical = score_rise(item("logical_reasoning"), said(0, 1))
    assert logical.score == pytest.approx(0.3 * 1 + 0.7 * 5)
    assert not logical.accurate
    free = score_rise(item(consistency_free=True), said(None, 5, 5))
    assert (free.score, free.accurate) == (5.0, True)
    assert percent(3) == 50


def test_the_bug_of_the_empty_cell_is_there_in_compat_and_gone_in_strict() -> None:
    # The item has a consistency judgement; another item of the file is free, so that the column exists.
    one = item(has_consistency_free=True)
    assert score_rise(one, said(1, 5, 5), "strict").score == pytest.approx(0.3 + 2.5 + 1.0)
    assert score_rise(one, said(1, 5, 5), "compat").score == pytest.approx(0.8 * 5 + 0.2 * 5)
    assert not score_rise(one, said(1, 5, 5), "compat").accurate  # accuracy is right in both


def test_the_change_of_april_2026_is_a_mode() -> None:
    free = item(consistency_free=True, has_consistency_free=True)
    assert score_rise(free, said(None, 5, 5), "compat").accurate
    assert not score_rise(free, said(None, 5, 5), "compat-2025").accurate


def test_one_unread_reply_takes_the_others_with_it_in_compat_alone() -> None:
    replies = said(5, 5, "five")
    strict, compat = (score_rise(item(), replies, mode) for mode in ("strict", "compat"))
    assert strict.values == {"consistency": 5, "reasoning": 5, "plausibility": None}
    assert set(compat.values.values()) == {None}
    assert (strict.score, compat.score, strict.accurate, compat.accurate) == (None, None, False, False)
    (_, whole) = summary([strict, score_rise(item(), said(5, 5, 5))], "rise")
    assert (whole.score, whole.scored, whole.accuracy) == (100.0, 1, 0.5)


def test_two_numbers_in_a_reply_break_the_released_scorer_and_not_ours() -> None:
    with pytest.raises(DataError, match="released scorer fails"):
        score_rise(item(), said("5, 4", 5, 5), "compat")
    assert score_rise(item(), said("5, 4", 5, 5)).values["consistency"] is None
    assert rise_numbers("Final Score: none\nFinal Score: **4**, 3") == [4, 3]
    assert strict_score('{"score": 6}') is None
    assert strict_score('{"score": 4}') == strict_score("Final Score: 4") == 4
    assert strict_score('{"score": 2} No, it is better: {"score": 4}') == 4
    assert strict_score('{"score": 2, "score": 4}') is None
    assert strict_score("[THINK]Final Score: 2[/THINK] I cannot say.") is None


def test_published_accuracies_are_sums_of_items() -> None:
    """51.4 % of GPT-Image-1.5 on 85, 90, 100 and 85 items, as RISEBench's table has it."""
    sizes = {"temporal": (49, 85), "causal": (56, 90), "spatial": (62, 100), "logical": (18, 85)}
    scores = []
    for family, (right, total) in sizes.items():
        name = f"{family}_reasoning"
        good, bad = (said(1, 1), said(0, 0)) if family == "logical" else (said(5, 5, 5), said(1, 1, 1))
        scores += [score_rise(item(name), good if n < right else bad) for n in range(total)]
    rows = {row.name: round(100 * row.accuracy, 1) for row in summary(scores, "rise")}
    assert rows == {"temporal_reasoning": 57.6, "causal_reasoning": 62.2, "spatial_reasoning": 62.0,
                    "logical_reasoning": 21.2, "all": 51.4}  # fmt: skip


# -- KRIS-Bench -------------------------------------------------------------------------------------------------------


def kris(task: str, family: str) -> BenchItem:
    return BenchItem(f"{task}/1", "kris", family, "x", (Path("a"),), flags={"task": task})


def replies(**scores: object) -> dict[str, str | None]:
    return {name: f'{{"{name}_score": {value}, "score": {value}}}' for name, value in scores.items()}


def test_kris_averages_are_flat_over_all_single_scores() -> None:
    one = score_kris(
        kris("biology", "natural"), replies(consistency=5, quality=5, instruction=5, knowledge=1)
    )
    other = score_kris(kris("color_change", "attribute"), replies(consistency=1, quality=1, instruction=1))
    assert kris_average([one, other]) == pytest.approx(25 * (19 / 7 - 1))
    mean_of_means = (percent(4.0) + percent(1.0)) / 2
    assert kris_average([one, other]) != pytest.approx(mean_of_means)
    names = {row.name for row in summary([one, other], "kris")}
    assert names == {"natural", "conceptual", "attribute", "factual", "all"}


def test_knowledge_counts_as_one_where_the_instruction_was_not_followed() -> None:
    low = score_kris(
        kris("biology", "natural"), replies(consistency=5, quality=5, instruction=2, knowledge=5)
    )
    assert low.values["knowledge"] == 1


def test_any_digit_is_a_score_in_compat_alone() -> None:
    assert kris_number("It has 2 cats and I like it.", "quality") == 2
    assert kris_number('{"quality_score": 9}', "quality") == 9
    words = dict.fromkeys(("consistency", "quality", "instruction"), "It has 2 cats.")
    strict, compat = (
        score_kris(kris("color_change", "attribute"), words, mode) for mode in ("strict", "compat")
    )
    assert (strict.score, compat.score) == (None, 2.0)


def test_every_known_bug_has_a_name_and_words() -> None:
    assert all(name.startswith(("rise.", "kris.")) and len(text) > 40 for name, text in KNOWN_BUGS.items())


# -- items ------------------------------------------------------------------------------------------------------------


def test_kris_is_read_from_its_folders(tmp_path: Path) -> None:
    folder = tmp_path / "temporal_prediction"
    folder.mkdir()
    entry = {
        "ori_img": ["1-2.jpg", "1-3.jpg"],
        "gt_img": "1-1.jpg",
        "ins_en": "predict frame 1",
        "explain_en": "",
    }
    (folder / "annotation.json").write_text(json.dumps({"1": entry}))
    (one,) = read_items(tmp_path)
    assert (one.id, one.family, len(one.sources), one.instruction) == (
        "temporal_prediction/1", "temporal", 2, "predict frame 1",
    )  # fmt: skip
    assert dimensions(one) == ["consistency", "quality", "instruction"]
    (folder / "annotation.json").write_text(json.dumps({"1": entry | {"ori_img": "../../../etc/passwd"}}))
    with pytest.raises(DataError):
        read_items(tmp_path)


@pytest.mark.parametrize(
    "content", ["[]", "{}", "[1]", '[{"category": "temporal_reasoning"}]', "nonsense"], ids=str
)
def test_a_file_that_is_no_benchmark_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "rise.json").write_text(content)
    with pytest.raises(DataError) as raised:
        read_items(tmp_path / "rise.json")
    assert "\n" not in str(raised.value)


def test_prompts_have_a_digest_and_logical_items_their_own() -> None:
    assert "0: no" in prompt_of(item("logical_reasoning"), "reasoning")
    assert "0: no" not in prompt_of(item(), "reasoning")
    assert dimensions(item(consistency_free=True)) == ["reasoning", "plausibility"]
    assert len(prompts_digest()) == 16


def test_arms_are_compared_item_by_item() -> None:
    right, wrong = score_rise(item(), said(5, 5, 5)), score_rise(item(), said(1, 1, 1))
    found = compare([right, right, wrong], [wrong, right, wrong])
    assert (found.gained, found.lost) == (1, 0)
    assert found.difference.effect == pytest.approx(1 / 3)
    assert math.isnan(summary([score_rise(item(), {})], "rise")[-1].score)
    (unknown,) = score_items([item()], {})
    assert (unknown.score, unknown.accurate) == (None, False)


def test_recorded_judgements_are_scored_without_asking_anyone(noria: Any, here: Path) -> None:
    square().save("a.png")
    entries = [
        {"index": n, "category": "causal_reasoning", "instruction": "x", "image": "a.png", "reference": "y",
         "subtask": "State Transition", **({"consistency_free": True} if n == 2 else {})}
        for n in (1, 2)
    ]  # fmt: skip
    (here / "rise.json").write_text(json.dumps(entries))
    judged = {"1": {"judge1": "Final Score: 1", "judge2": "Final Score: 5", "judge3": "Final Score: 5"},
              "2": {"judge1": None, "judge2": "Final Score: 5", "judge3": "Final Score: 5"}}  # fmt: skip
    (here / "judged.json").write_text(json.dumps(judged))
    for mode, score in (("strict", (70.0 + 100) / 2), ("compat", 100.0), ("compat-2025", 100.0)):
        result = noria(
            "evaluate", "rise.json", "--recorded", "judged.json", "--mode", mode, "-o", mode, "--json"
        )
        assert result.code == 0, result.err
        row = json.loads(result.out)["arms"]["recorded"][-1]
        assert (row["score"], row["accuracy"]) == (
            pytest.approx(score),
            0.0 if mode == "compat-2025" else 0.5,
        )
    assert read_json(Path("strict/scores.json"))["judge"] == "judged.json"


# -- curation ---------------------------------------------------------------------------------------------------------


def test_near_duplicates_are_the_later_ones() -> None:
    texts = [
        "Show the statue after a night in the rain",
        "show the statue, after a night in the rain!",
        "mirror it",
    ]
    assert near_duplicates(texts) == {1: 0}
    assert near_duplicates(texts, hashes=[0, 2**40 - 1, 0]) == {}
    assert similarity(texts[0], texts[1]) > 0.95
    assert similarity("", "") == 1.0


def test_a_picture_is_known_again_scaled_brightened_and_compressed() -> None:
    image = textured()
    own = picture_hash(image)
    assert bits_apart(own, picture_hash(image.resize((160, 120)))) <= 6
    assert bits_apart(own, picture_hash(image.point(lambda v: min(255, int(v * 1.1))))) <= 6
    noise = np.random.default_rng(9).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    assert bits_apart(own, picture_hash(Image.fromarray(noise).resize((320, 240)))) > 15
    assert picture_hash(Image.new("RGB", (9, 9), "red")) == picture_hash(Image.new("RGB", (50, 9), "red"))


def test_words_of_a_benchmark_are_found_in_any_script() -> None:
    bench = Benchmark("rise")
    bench.add(
        [
            "Draw what the apple will look like after two weeks on the shelf",
            "把苹果放在架子上两周之后会是什么样子",
        ]
    )
    assert (
        bench.contaminates(["please draw what the apple will look like after two weeks"], [])
        == "words of rise"
    )
    assert bench.contaminates(["苹果放在架子上两周之后"], []) == "words of rise"
    assert bench.contaminates(["draw an apple on the shelf"], []) == ""


def test_difficulty_keeps_what_can_be_learnt_from() -> None:
    settings = DifficultySettings()
    cases = {
        "": Difficulty(8, 0.5, 0.0, 0.2, 0.0, 0.9),
        "too easy": Difficulty(8, 1.0, 0.95, 0.1, 0.1, 0.9),
        "too hard": Difficulty(8, 0.0, 0.05, 0.1, 0.1, 0.9),
        "the editor cannot do it": Difficulty(8, 0.5, 0.5, 0.2, 0.2, 0.4),
        "no spread": Difficulty(8, 0.5, 0.5, 0.0, 0.01, None),
        "no valid reward": Difficulty(8),
    }
    assert {why: unfit(one, settings) for why, one in cases.items()} == {why: why for why in cases}
    assert [bucket(cases[name]) for name in ("", "too easy", "too hard", "no valid reward")] == [
        "hard", "easy", "hard", "unknown",
    ]  # fmt: skip


def test_a_request_that_gives_its_outcome_away_is_found() -> None:
    reference = Reference("rust", ("the iron gate turns orange with rust",))
    scene = "an iron gate in a field"
    assert gives_away(Proposal(scene, "Make the gate turn orange with rust", reference))
    assert not gives_away(Proposal(scene, "Show the gate after years in the rain", reference))


# -- attribution ------------------------------------------------------------------------------------------------------


def test_the_matrix_counts_every_rollout_once() -> None:
    rows = [[True, True], [False, True], [True, False], [False, False], [None, True]]
    found = matrices([{"family": "f", "rollouts": rows, "oracle": True, "direct": None}])
    matrix = found["all"]
    assert (matrix.success, matrix.blind_spot, matrix.gap, matrix.both_wrong, matrix.open) == (1, 1, 1, 1, 1)
    assert (matrix.right, matrix.ceiling, math.isnan(matrix.floor)) == (0.5, 1.0, True)
    assert found["f"] == matrix


@pytest.mark.parametrize(
    ("matrix", "start"),
    [
        (Matrix(success=2, both_wrong=8, oracle=9, oracles=10), "Train the planner:"),
        (Matrix(success=2, gap=8, oracle=9, oracles=10), "Train the planner on this editor's words"),
        (Matrix(success=2, gap=8, oracle=3, oracles=10), "Change the editor"),
        (Matrix(success=10, oracle=10, oracles=10), "Neither is worth much"),
        (Matrix(), "Too little is known"),
    ],
    ids=["planner", "words", "editor", "neither", "unknown"],
)
def test_the_advice_follows_from_the_matrix(matrix: Matrix, start: str) -> None:
    assert advice(matrix).startswith(start)


# -- edits that failed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "made",
    [lambda n: replace(item(), id=str(n)), lambda n: replace(item("logical_reasoning"), id=str(n)),
     lambda n: replace(kris("biology", "natural"), id=str(n))],
    ids=["rise", "rise-logical", "kris"],
)  # fmt: skip
def test_failing_on_what_is_hard_does_not_lead(made: Callable[[int], BenchItem]) -> None:
    items = [made(n) for n in range(10)]
    best = "1" if items[0].family == "logical_reasoning" else "5"
    names = ("consistency", "reasoning", "plausibility", "quality", "instruction", "knowledge")
    good = dict.fromkeys(names, f"Final Score: {best}")
    failed = {"picture": None, "replies": {}, "why": "timeout"}
    records = {one.id: {"picture": "p.png", "replies": good} if one.id == "0" else failed for one in items}
    row = summary(score_items(items, records), items[0].kind)[-1]
    assert (row.items, row.scored, row.score) == (10, 10, pytest.approx(10))
    assert (row.accuracy, row.availability) == (pytest.approx(0.1), pytest.approx(0.1))
    as_released = summary(score_items(items, records, "compat"), items[0].kind)[-1]
    assert (as_released.scored, as_released.availability) == (1, pytest.approx(0.1))


def test_what_the_judge_failed_on_and_what_was_never_edited_is_missing() -> None:
    items = [replace(item(), id=name) for name in ("judge", "source", "none")]
    records = {
        "judge": {"picture": "p.png", "replies": dict.fromkeys(("consistency", "reasoning", "plausibility"))},
        "source": {"replies": {}, "why": "the picture is gone"},
    }
    scores = score_items(items, records)
    assert [(one.score, one.failed) for one in scores] == [(None, False)] * 3
    assert summary(scores, "rise")[-1].availability == 1


@pytest.mark.anyio
async def test_a_record_tells_a_failed_edit_from_a_failed_judge_and_from_a_lost_picture(
    tmp_path: Path,
) -> None:
    square().save(tmp_path / "a.png")
    lost, there = (replace(item(), id=name, sources=(tmp_path / name,)) for name in ("gone.png", "a.png"))

    class Edit:
        def __init__(self, image: Any) -> None:
            self.image = image

        async def edit(self, *args: Any, **more: Any) -> list[Any]:
            return [SimpleNamespace(plan=SimpleNamespace(text="p"), why="refused", image=self.image)]

    class Judge:
        async def ask(self, *args: Any, **more: Any) -> Any:
            raise DataError("no judge today")

    async def record(one: BenchItem, image: Any) -> dict[str, Any]:
        edit, judge = Edit(image), Judge()
        found = await run_arm("arm", edit, judge, [one], tmp_path / "out", judge_name="j")  # type: ignore[arg-type]
        return found[one.id]

    assert "picture" not in await record(lost, square())
    failed = await record(there, None)
    assert (failed["picture"], failed["why"]) == (None, "refused")
    judged = await record(there, square())
    assert (tmp_path / "out" / judged["picture"]).is_file()
    assert judged["replies"] == {}
    assert await record(there, None) == failed | {
        "stamp": judged["stamp"]
    }  # what has no replies is tried again
