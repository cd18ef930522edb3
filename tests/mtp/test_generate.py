"""Our `generate` beside transformers': the same shapes, options and greedy text."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from noria.core.errors import ConfigError, DataError
from noria.core.models.lm import small_lm
from noria.mtp.acceptance.sampling import SamplingParams
from noria.mtp.decoding.decoder import Completion, Decoder, Request
from noria.mtp.decoding.generate import drafted_generate, speculative_generate
from noria.mtp.heads.small import small_head


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


def test_a_mask_that_is_left_out_is_inferred_as_transformers_does(pair: Any) -> None:
    """Padding is seen by the pad token, unless that ends text, too, or is not known."""
    model, head, tokenizer = pair
    ids = batch(tokenizer)["input_ids"]
    pad = tokenizer.pad_token_id
    assert bool((ids == pad).any())
    for more in ({"pad_token_id": pad}, {"pad_token_id": pad, "eos_token_id": [pad, 3]}, {"eos_token_id": 5}):
        options: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, **more}
        theirs = model.generate(ids, **options)
        ours = drafted_generate(model, head, ids, **options)
        assert torch.equal(ours, theirs[:, : ours.shape[1]]), more
    with pytest.raises(DataError, match=r"attention_mask \[3, 2\]"):
        drafted_generate(model, head, ids, attention_mask=torch.ones(3, 2), max_new_tokens=2)


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
    [{"num_beams": 4}, {"repetition_penalty": 1.2}, {"logits_processor": [1]}, {"suppress_tokens": [3]}],
)
def test_options_that_would_change_the_text_are_refused(pair: Any, option: dict[str, Any]) -> None:
    model, head, tokenizer = pair
    with pytest.raises(ConfigError, match=next(iter(option))):
        drafted_generate(model, head, **batch(tokenizer), max_new_tokens=4, **option)
    for hidden in ({"num_beams": 2}, {"min_new_tokens": 2}, {"suppress_tokens": [3]}):
        config = GenerationConfig(max_new_tokens=4, **hidden)
        with pytest.raises(ConfigError, match=next(iter(hidden))):
            drafted_generate(model, head, **batch(tokenizer), generation_config=config)


def test_length_may_be_given_as_a_whole(pair: Any) -> None:
    model, head, tokenizer = pair
    given = batch(tokenizer)
    n = given["input_ids"].shape[1]
    out = drafted_generate(
        model, head, **given, max_length=n + 5, eos_token_id=None, do_sample=True, num_beams=1
    )
    assert out.shape == (3, n + 5)
    with pytest.raises(ConfigError, match="give max_new_tokens"):
        drafted_generate(model, head, **given, max_length=n)


def asked_of(monkeypatch: pytest.MonkeyPatch, pair: Any, **options: Any) -> tuple[list[Request], list[int]]:
    """What reaches the decoder: requests and end tokens."""
    seen: list[Any] = []

    def generate(self: Decoder, requests: list[Request]) -> list[Completion]:
        seen.extend([requests, list(self.eos)])
        return [Completion(tokens=[5]) for _ in requests]

    monkeypatch.setattr(Decoder, "generate", generate)
    model, head, tokenizer = pair
    drafted_generate(model, head, **batch(tokenizer), **options)
    return seen[0], seen[1]


def test_what_is_left_unsaid_is_what_transformers_takes(monkeypatch: pytest.MonkeyPatch, pair: Any) -> None:
    """`generate` keeps the 50 best tokens, adds 20, and ends where the model's own configuration does."""
    requests, eos = asked_of(monkeypatch, pair, do_sample=True)
    assert {r.params for r in requests} == {SamplingParams(top_k=50)}
    assert {r.max_new_tokens for r in requests} == {20}
    assert eos == [pair[0].generation_config.eos_token_id]
    requests, eos = asked_of(monkeypatch, pair, generation_config=GenerationConfig(do_sample=True, top_k=0))
    assert {r.params for r in requests} == {SamplingParams()}
    assert eos == [pair[0].generation_config.eos_token_id]
    requests, eos = asked_of(monkeypatch, pair, eos_token_id=None, temperature=0.3)
    assert {r.params for r in requests} == {SamplingParams(temperature=0)}
    assert eos == []


def test_several_completions_of_a_prompt_stand_together(pair: Any) -> None:
    model, head, tokenizer = pair
    given = batch(tokenizer)
    out = drafted_generate(
        model,
        head,
        **given,
        max_new_tokens=6,
        do_sample=True,
        num_return_sequences=3,
        temperature=3.0,
        eos_token_id=None,
    )
    n = given["input_ids"].shape[1]
    assert torch.equal(out[:, :n], given["input_ids"].repeat_interleave(3, 0))
    assert len({tuple(row) for row in out[:3, n:].tolist()}) == 3
