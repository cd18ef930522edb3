"""Answers are found in text, and as tokens of the very ids that were written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st

from noria.core.errors import ConfigError
from noria.core.models.lm import small_lm
from noria.credit.responses.answers import boxed, finder, hashes, last_number, matching, tagged, token_span


def found(find: Callable[[str], Any], text: str) -> str | None:
    span = find(text)
    return None if span is None else text[slice(*span)]


@pytest.mark.parametrize(
    ("name", "text", "answer"),
    [
        ("boxed", r"so \boxed{\frac{1}{2}} it is", r"\frac{1}{2}"),
        ("boxed", r"\boxed{1} no: \boxed{ 2 }.", "2"),
        ("boxed", r"\boxed{1} then \boxed{3", "1"),
        ("boxed", r"\boxed{a \} b}", r"a \} b"),
        ("boxed", r"\boxed{}", None),
        ("boxed", "nothing", None),
        ("tag", "<answer>1</answer> <answer> x y </answer>", "x y"),
        ("tag", "<answer>1</answer> <answer>2", "1"),
        ("tag", "</answer>1<answer>", None),
        ("tag:final", "<final>7</final>", "7"),
        ("hash", "3+4=7\n#### 7\nend", "7"),
        ("hash", "####", None),
        ("last-number", "3 apples, 1,234 pears and -5.5.", "-5.5"),
        ("last-number", "item2 has 3/4", "3/4"),
        ("last-number", "7, then nothing", "7"),
        ("last-number", "none", None),
        ("regex:is (\\w+)", "it is red, it is blue", "blue"),
        ("regex:b..e", "it is blue", "blue"),
        ("auto", r"#### 3 \boxed{4}", "4"),
        ("auto", "#### 3 or 5", "3 or 5"),
        ("auto", "about 5", "5"),
    ],
)
def test_the_last_answer_is_found(name: str, text: str, answer: str | None) -> None:
    assert found(finder(name), text) == answer


def test_a_callable_is_its_own_finder_and_other_names_are_told() -> None:
    find = tagged("x")
    assert finder(find) is find
    assert found(boxed, "\\boxed{1}") == found(hashes, "#### 1") == found(last_number, "1") == "1"
    with pytest.raises(ConfigError, match="no answer finder 'boxd'"):
        finder("boxd")
    with pytest.raises(ConfigError, match="no regular expression"):
        matching("(")


@pytest.fixture(name="tokenizer", scope="module")
def _tokenizer() -> Any:
    return small_lm()[1]


@given(st.text(alphabet="ab 7é漢🙂\n", max_size=24), st.integers(0, 24), st.integers(1, 6))
@settings(max_examples=80, deadline=None)
def test_the_tokens_of_a_span_are_those_that_hold_its_characters(
    tokenizer: Any, text: str, start: int, length: int
) -> None:
    ids = tokenizer(text)["input_ids"]
    stop = min(start + length, len(text))
    span = token_span(ids, tokenizer, lambda _: (start, stop))
    if not 0 <= start < stop:
        assert span is None
        return
    assert span is not None
    first, last = span
    # They hold it, and with one fewer on either side they do not.
    assert text[start:stop] in tokenizer.decode(ids[first:last])
    assert len(tokenizer.decode(ids[:first]).rstrip("�")) <= start
    assert len(tokenizer.decode(ids[: last - 1]).rstrip("�")) < stop
    if len(set(text)) == len(text):
        inside = [tokenizer.decode(ids[first + 1 : last]), tokenizer.decode(ids[first : last - 1])]
        assert all(text[start:stop] not in part for part in inside)


def test_tokens_that_were_drawn_need_not_be_the_tokenizer_s_own(tokenizer: Any) -> None:
    apart = [tokenizer(c)["input_ids"][0] for c in "#### 12"]
    span = token_span(torch.tensor([*apart, tokenizer.eos_token_id]), tokenizer, hashes)
    assert span == (5, 7)
