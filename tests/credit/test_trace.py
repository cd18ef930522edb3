"""A trace holds the whole text, token by token, and the numbers of the flow behind it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from noria.core.models.lm import small_lm
from noria.credit.config import named_credit
from noria.credit.inspection.trace import pieces, trace


@pytest.fixture(name="policy", scope="module")
def _policy() -> Any:
    return small_lm()


@given(st.text(alphabet="ab 7é漢🙂\n#", max_size=40))
@settings(max_examples=60, deadline=None)
def test_pieces_make_up_the_text(policy: Any, text: str) -> None:
    ids = policy[1](text)["input_ids"]
    found = pieces(ids, policy[1])
    assert "".join(found) == text
    assert len(found) == len(ids)


def test_a_trace_says_of_every_token_what_it_is_and_what_passes_it(policy: Any) -> None:
    model, tokenizer = policy
    prompt, response = (tokenizer(t)["input_ids"] for t in ("Q: 3+4\n", "3+4=7 #### 7\nQ: 1"))
    text = "".join(pieces(response, tokenizer))
    answer = next(
        n for n in range(len(response)) if "".join(pieces(response, tokenizer)[: n + 1]).endswith("#### 7")
    )
    found = trace(model, tokenizer, prompt, response, named_credit("flow"), (answer, answer + 1))
    parts = [token.part for token in found.tokens]
    assert parts == (
        ["question"] * len(prompt)
        + ["reasoning"] * answer
        + ["answer"]
        + ["after"] * (len(response) - answer - 1)
    )
    assert "".join(token.text for token in found.tokens) == f"Q: 3+4\n{text}"
    assert found.fallback == "none"
    assert found.arrived == pytest.approx(1, abs=1e-5)
    assert found.layers == [4, 5, 6, 7, 8]
    assert sum(token.flow for token in found.tokens) == pytest.approx(found.path_length, rel=1e-4)
    for token in found.tokens:
        if token.part == "after":
            assert (token.flow, token.weight) == (0, 1)
        assert token.weight == (1.5 if token.chosen else 1.0)
        assert not (token.chosen and token.part in ("question", "after"))
    assert found.hubs == sorted(found.hubs, key=lambda hub: -hub[1])
    assert all(parts[place] == "reasoning" for place, _ in found.hubs)
    assert found.backbone.spine[-1] == len(prompt) + answer - 1  # the row that predicts the answer


def test_a_response_without_an_answer_has_a_trace_that_says_so(policy: Any) -> None:
    model, tokenizer = policy
    found = trace(model, tokenizer, [5, 6], [7, 8, 9], named_credit("flow"), None)
    assert (found.fallback, found.arrived, found.hubs, found.backbone.edges) == ("no_answer", None, [], [])
    assert all(token.weight == 1 for token in found.tokens)
