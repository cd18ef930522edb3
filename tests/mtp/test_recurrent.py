"""Hybrid models decode as transformers decodes them, whatever is drafted and rejected, in any company."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from noria.core.errors import ModelError
from noria.mtp.acceptance.sampling import SamplingParams
from noria.mtp.data import Rows
from noria.mtp.decoding.decoder import Decoder, Request
from noria.mtp.decoding.drafter import HeadDrafter
from noria.mtp.heads.backbone import backbone_states
from noria.mtp.heads.head import MTPHead
from noria.mtp.heads.recurrent import linear_layers
from tests.mtp.tiny_models import head_of, tiny

GREEDY = SamplingParams(temperature=0)
PROMPTS = [[3, 4, 5], [7], [9, 2, 9, 2, 9, 2, 9], [1, 1], [5, 6, 7]]
HYBRIDS = ["qwen3_next", "qwen3_5"]


@pytest.mark.parametrize("family", HYBRIDS)
@pytest.mark.parametrize("drafts", [False, True], ids=["plain", "drafted"])
def test_greedy_is_transformers_greedy(family: str, drafts: bool) -> None:
    model: Any = tiny(family)
    drafter = HeadDrafter(MTPHead.fresh(model)) if drafts else None
    limits = [14, 9, 12, 1, 13]
    got = Decoder(model, drafter).generate(
        [Request(p, n, GREEDY) for p, n in zip(PROMPTS, limits, strict=True)]
    )
    for prompt, limit, completion in zip(PROMPTS, limits, got, strict=True):
        ids = torch.tensor([prompt])
        wanted = model.generate(ids, max_new_tokens=limit, do_sample=False, pad_token_id=0)
        assert completion.tokens == wanted[0, len(prompt) :].tolist()
    if drafts:
        drafted, accepted = (sum(sum(getattr(c, n)) for c in got) for n in ("drafted", "accepted"))
        assert 0 < accepted < drafted, "some are rejected, some are not"


@pytest.mark.parametrize("family", HYBRIDS)
def test_sampled_text_has_the_models_own_probabilities(family: str) -> None:
    """Every log-probability is that of a forward pass without a cache over the finished text."""
    model: Any = tiny(family)
    requests = [Request(p, 12, seed=i) for i, p in enumerate(PROMPTS)]
    got = Decoder(model, HeadDrafter(head_of(model, family))).generate(requests)
    for request, completion in zip(requests, got, strict=True):
        ids = torch.tensor([[*request.prompt, *completion.tokens]])
        with torch.no_grad():
            logp = model(ids).logits[0].log_softmax(-1)
        for place, (token, value) in enumerate(zip(completion.tokens, completion.logprobs, strict=True)):
            assert value == pytest.approx(float(logp[len(request.prompt) + place - 1, token]), abs=2e-3)


def test_the_modules_are_as_they_were_afterwards() -> None:
    model: Any = tiny("qwen3_5")
    Decoder(model).generate([Request([1, 2], 3)])
    backbone_states(model, Rows.of(torch.tensor([[1, 2, 3]]), segments=torch.tensor([[0, 1, 1]])))
    assert all("forward" not in vars(module) for module in model.modules())


def test_layers_of_an_unknown_build_are_refused() -> None:
    base = SimpleNamespace(layers=[object()])
    with pytest.raises(ModelError, match="unknown build"):
        linear_layers(base, ["linear_attention"])
