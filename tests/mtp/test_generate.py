"""Our `generate` beside transformers': the same shapes, options and greedy text."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from noria.core.errors import ConfigError
from noria.core.lm import small_lm
from noria.mtp.generate import drafted_generate, speculative_generate
from noria.mtp.small import small_head


@pytest.fixture(scope="module")
def pair() -> Any:
    model, tokenizer = small_lm()
    return model, small_head(model), tokenizer


def batch(tokenizer: Any) -> dict[str, torch.Tensor]:
    tokenizer.padding_side = "left"
    texts = ["Q: 3+4*2\n", "Q: 17-5\n", "def f(x):\n    return"]
    return dict(tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False))


def test_greedy_text_is_that_of_transformers(pair: Any) -> None:
    model, head, tokenizer = pair
    given = batch(tokenizer)
    theirs = model.generate(**given, max_new_tokens=24, do_sample=False)
    ours = drafted_generate(model, head, **given, max_new_tokens=24, do_sample=False)
    assert torch.equal(ours, theirs[:, : ours.shape[1]])
    assert ours.shape == theirs.shape


def test_model_generate_itself_drafts_inside_and_is_whole_again_outside(pair: Any) -> None:
    model, head, tokenizer = pair
    given, own = batch(tokenizer), model.generate
    config = GenerationConfig(max_new_tokens=8, do_sample=True, temperature=0.8, top_p=0.9, pad_token_id=1)
    with speculative_generate(model, head, gamma=2):
        torch.manual_seed(3)
        first = model.generate(**given, generation_config=config)
        torch.manual_seed(3)
        again = model.generate(
            given["input_ids"], attention_mask=given["attention_mask"], generation_config=config
        )
        other = model.generate(**given, generation_config=config)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first[:, : given["input_ids"].shape[1]], given["input_ids"])
    assert model.generate.__func__ is own.__func__


def test_a_row_that_ends_is_padded(pair: Any) -> None:
    model, head, tokenizer = pair
    given = batch(tokenizer)
    newline = tokenizer("\n")["input_ids"][-1]
    n = given["input_ids"].shape[1]
    out = drafted_generate(
        model, head, **given, max_new_tokens=40, do_sample=False, eos_token_id=newline, pad_token_id=1
    )
    for row in out[:, n:].tolist():
        if newline in row:
            assert set(row[row.index(newline) + 1 :]) <= {1}
    assert any(newline in row for row in out[:, n:].tolist())


@pytest.mark.parametrize(
    "option",
    [{"num_beams": 4}, {"repetition_penalty": 1.2}, {"logits_processor": [1]}, {"num_return_sequences": 2}],
)
def test_options_that_would_change_the_text_are_refused(pair: Any, option: dict[str, Any]) -> None:
    model, head, tokenizer = pair
    with pytest.raises(ConfigError, match=next(iter(option))):
        drafted_generate(model, head, **batch(tokenizer), max_new_tokens=4, **option)
    config = GenerationConfig(max_new_tokens=4, num_beams=2)
    with pytest.raises(ConfigError, match="num_beams"):
        drafted_generate(model, head, **batch(tokenizer), generation_config=config)


def test_length_may_be_given_as_a_whole(pair: Any) -> None:
    model, head, tokenizer = pair
    given = batch(tokenizer)
    n = given["input_ids"].shape[1]
    out = drafted_generate(
        model, head, **given, max_length=n + 5, eos_token_id=None, do_sample=True, num_beams=1
    )
    assert out.shape == (3, n + 5)
