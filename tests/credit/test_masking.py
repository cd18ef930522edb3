"""The mask test: what is masked, that the answer is written anew, and what a score is worth."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from noria.core.config import load_config
from noria.core.errors import ConfigError
from noria.credit.config import MaskSettings, named_credit
from noria.credit.inspection.masking import (
    LEAD_IN,
    AnsweredResponse,
    answered_responses,
    area,
    mask_test,
    reasoning_of,
    traces_of_rows,
)
from noria.credit.proof.reasoner import train_questions
from noria.credit.responses.rollout import sample
from noria.credit.tasks.chains import CHAIN_ANSWER
from noria.credit.tasks.questions import Question, prompt_ids
from noria.credit.tasks.small import small_model


def settings(**changed: Any) -> MaskSettings:
    return load_config(MaskSettings, base={"answer": CHAIN_ANSWER} | changed)


@pytest.fixture(name="reasoner", scope="module")
def _reasoner() -> Any:
    return small_model()


@pytest.fixture(name="rows", scope="module")
def _rows(reasoner: Any) -> list[AnsweredResponse]:
    """Chains as the reasoner answers them."""
    model, tokenizer = reasoner
    questions = train_questions("chains", 24, seed=31)
    prompts = [prompt_ids(q, tokenizer) for q in questions]
    generator = torch.Generator().manual_seed(0)
    eos, pad = [tokenizer.eos_token_id], tokenizer.pad_token_id
    done = sample(model, prompts, new=160, generator=generator, eos=eos, pad=pad)
    rows, left = answered_responses(questions, prompts, [r.tokens for r in done], tokenizer, CHAIN_ANSWER)
    assert left == {}
    return rows


@pytest.mark.parametrize(
    ("before", "lead"),
    [
        ("so\n#### ", "#### "),
        ("so #### x", "#### x"),
        ("so #### $", "#### $"),
        (r"thus \boxed{", r"\boxed{"),
        ("x <answer> ", "<answer> "),
        ("The answer is ", "answer is "),
        ("12 + 3 = ", "= "),
        ("then we have ", ""),
    ],
)
def test_the_lead_in_of_an_answer_stays(before: str, lead: str) -> None:
    found = LEAD_IN.search(before)
    assert ("" if found is None else found[0]) == lead


def test_reasoning_is_what_comes_before_the_lead_in(reasoner: Any) -> None:
    _, tokenizer = reasoner
    texts = ["A x+1 x2 = x3; #### x3", "x3", "#### x3", "A x+1 x2 = x3; so on"]
    question = Question("?", "x3")
    rows, left = answered_responses(
        [question] * 4, [[5]] * 4, [tokenizer(t)["input_ids"] for t in texts], tokenizer, "hash"
    )
    assert left == {"no answer": 2, "no reasoning": 1}
    (row,) = rows
    assert tokenizer.decode(row.response[: row.reasoning]) == "A x+1 x2 = x3;"
    assert tokenizer.decode(row.response[slice(*row.answer)]).strip() == "x3"
    mask = reasoning_of(rows, traces_of_rows(rows))
    assert int(mask.sum()) == row.reasoning


@pytest.mark.parametrize("operator", ["hide", "replace", "delete"])
def test_hiding_what_leads_to_the_answer_changes_more_than_hiding_what_does_not(
    reasoner: Any, rows: list[AnsweredResponse], operator: Any
) -> None:
    model, tokenizer = reasoner
    credits = {"flow": named_credit("flow")}
    found = mask_test(model, tokenizer, rows, credits, settings(operator=operator, batch_size=7))
    rates = {(row.name, row.end): sum(row.changed) / len(row.changed) for row in found.rows}
    assert found.questions == len(rows)
    assert found.right > 0.6
    assert rates["flow", "top"] > rates["flow", "bottom"]
    for row in found.rows:
        assert all(changed or not flipped for changed, flipped in zip(row.changed, row.flipped, strict=True))
    assert found.against_random("flow").n == len(rows)


def test_batches_of_any_size_and_the_same_seed_give_the_same(
    reasoner: Any, rows: list[AnsweredResponse]
) -> None:
    model, tokenizer = reasoner
    credits = {"flow": named_credit("flow", batch_size=5)}
    written: list[int] = []
    one = mask_test(model, tokenizer, rows[:9], credits, settings(batch_size=4), on_batch=written.append)
    other = mask_test(model, tokenizer, rows[:9], {"flow": named_credit("flow")}, settings(batch_size=64))
    assert [row.changed for row in one.rows] == [row.changed for row in other.rows]
    assert written == sorted(written)
    assert written[-1] == 9 * 4  # nothing, random, top, bottom


def test_rows_that_cannot_be_scored_are_left_out_and_counted(
    reasoner: Any, rows: list[AnsweredResponse]
) -> None:
    model, tokenizer = reasoner
    long = AnsweredResponse(rows[0].question, rows[0].prompt, rows[0].response, (1, len(rows[0].response)), 6)
    found = mask_test(model, tokenizer, [*rows[:4], long], {"flow": named_credit("flow")}, settings())
    assert found.questions == 5  # a long answer is no reason by itself: spans are the caller's here
    broken = AnsweredResponse(rows[0].question, rows[0].prompt, rows[0].response, (0, 0), 6)
    found = mask_test(model, tokenizer, [*rows[:4], broken], {"flow": named_credit("flow")}, settings())
    assert (found.questions, found.left_out) == (4, {"no score": 1})
    with pytest.raises(ConfigError, match="can be scored"):
        mask_test(model, tokenizer, [broken], {"flow": named_credit("flow")}, settings())
    with pytest.raises(ConfigError, match="fraction"):
        settings(fraction=1.0)


def test_area_is_the_chance_that_one_scores_above_the_other() -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0, 2.0], [1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 1.0, 1.0]])
    yes = torch.tensor([[True, False, True, False], [True, True, False, False], [False] * 4])
    no = torch.tensor([[False, True, False, True], [False, False, True, True], [True] * 4])
    found = area(scores, yes, no)
    assert found[:2] == [0.875, 0.0]  # 3 > 1, 3 > 2, 2 > 1, and 2 = 2 counts half
    assert math.isnan(found[2])


def test_flow_tells_a_chain_from_its_dead_branch_better_than_chance(
    reasoner: Any, rows: list[AnsweredResponse]
) -> None:
    from noria.credit.proof.arms import _areas

    model, tokenizer = reasoner
    found = mask_test(model, tokenizer, rows, {"flow": named_credit("flow")}, settings(ends=["top"]))
    areas = _areas(found, tokenizer, 0)["areas"]
    assert areas["flow"]["dead"] > 0.58
    assert areas["flow"]["dead"] > areas["random"]["dead"] + 0.05
