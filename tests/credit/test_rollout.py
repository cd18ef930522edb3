"""Rollouts draw from the model's own law, by the numbers that are passed in."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from noria.core.errors import DivergenceError
from noria.core.models.lm import small_lm
from noria.credit.responses.answers import answer_texts
from noria.credit.responses.rollout import sample
from tests.credit.tiny_models import tiny

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12], [13]]


@pytest.fixture(name="model", scope="module")
def _model() -> Any:
    return tiny("llama")


def test_greedy_rollouts_are_generate_s(model: Any) -> None:
    done = sample(model, PROMPTS, new=9, temperature=0.0)
    for prompt, rollout in zip(PROMPTS, done, strict=True):
        expected = model.generate(
            torch.tensor([prompt]), max_new_tokens=9, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        assert rollout.tokens == expected[0, len(prompt) :].tolist()
        assert not rollout.ended


def test_log_probabilities_are_those_of_the_tempered_model(model: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    done = sample(model, PROMPTS, new=6, temperature=0.7, generator=generator)
    for prompt, rollout in zip(PROMPTS, done, strict=True):
        ids = torch.tensor([[*prompt, *rollout.tokens]])
        with torch.no_grad():
            logp = (model(ids).logits[0] / 0.7).log_softmax(-1)
        own = logp[torch.arange(len(prompt) - 1, ids.shape[1] - 1), ids[0, len(prompt) :]]
        torch.testing.assert_close(torch.tensor(rollout.logprobs), own, atol=1e-4, rtol=1e-4)


def test_draws_follow_the_distribution_and_the_seed(model: Any) -> None:
    def drawn(seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return [
            r.tokens[0] for r in sample(model, [[5, 6]] * 4000, new=1, temperature=1.0, generator=generator)
        ]

    first = drawn(0)
    assert first == drawn(0) != drawn(1)
    with torch.no_grad():
        p = model(torch.tensor([[5, 6]])).logits[0, -1].softmax(-1)
    counts = torch.bincount(torch.tensor(first), minlength=len(p)) / 4000
    error = ((counts - p).abs() / (p * (1 - p) / 4000).sqrt().clamp(min=1e-4)).max()
    assert float(error) < 4.5  # standard deviations, of 64 tokens


def test_a_rollout_ends_with_its_end_token(model: Any) -> None:
    free = sample(model, PROMPTS, new=9, temperature=0.0)
    end = free[0].tokens[3]
    done = sample(model, PROMPTS, new=9, temperature=0.0, eos=[end])
    assert done[0].tokens == free[0].tokens[: free[0].tokens.index(end) + 1]
    assert done[0].ended
    assert len(done[0].logprobs) == len(done[0].tokens)


def test_hidden_tokens_are_as_if_attention_could_not_see_them(model: Any) -> None:
    hidden = [[False, True, False], [True, False, False, True, False], [False]]
    done = sample(model, PROMPTS, new=1, temperature=0.0, hidden=hidden)
    for prompt, gone, rollout in zip(PROMPTS, hidden, done, strict=True):
        mask = (~torch.tensor([gone])).long()
        with torch.no_grad():
            logits = model(
                torch.tensor([prompt]), attention_mask=mask, position_ids=torch.arange(len(prompt))[None]
            ).logits
        assert rollout.tokens == [int(logits[0, -1].argmax())]
    assert [r.tokens for r in done] != [r.tokens for r in sample(model, PROMPTS, new=1, temperature=0.0)]


def test_logits_that_are_not_finite_end_it(model: Any) -> None:
    broken = tiny("llama")
    with torch.no_grad():
        broken.model.norm.weight.fill_(torch.nan)
    with pytest.raises(DivergenceError, match="token 0"):
        sample(broken, PROMPTS, new=2, temperature=0.0)


def test_answers_of_responses() -> None:
    _, tokenizer = small_lm()
    texts = ["3+4=7 #### 7", "no idea", "#### 12 #### 13"]
    assert answer_texts([tokenizer(t)["input_ids"] for t in texts], tokenizer, "hash") == [
        "7",
        None,
        "13",
    ]
