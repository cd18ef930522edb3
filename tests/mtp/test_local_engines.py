"""Real engines under audit: ours with a real head, and transformers' own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from noria.core.errors import ConfigError
from noria.mtp.acceptance.sampling import SamplingParams
from noria.mtp.decoding.drafter import HeadDrafter
from noria.mtp.engines.audit import audit
from noria.mtp.engines.local import decoder_engine, law_of, transformers_engine
from tests.mtp.test_decoder import model_of
from tests.mtp.tiny_models import head_of

VOCAB = 12
PROMPTS = [(1, 2), (3,)]


@pytest.fixture(scope="module")
def model() -> Any:
    return model_of(VOCAB, eos_token_id=None)


def test_the_law_is_the_models_whatever_the_lengths(model: Any) -> None:
    prefixes = [(1, 2, 3), (4,), (5, 6, 7), (0, 1)]
    law = law_of(model, batch_size=1)(prefixes)
    for row, prefix in zip(law, prefixes, strict=True):
        with torch.no_grad():
            alone = model(torch.tensor([prefix])).logits[0, -1].softmax(-1)
        torch.testing.assert_close(row, alone)


@pytest.mark.parametrize("rule", ["rejection", "block"])
def test_a_head_that_drafts_is_acquitted_also_when_it_is_stale(model: Any, rule: Any) -> None:
    engine = decoder_engine(
        model,
        HeadDrafter(head_of(model, "qwen3")),
        length=4,
        gamma=2,
        rule=rule,
        stale=HeadDrafter(head_of(model, "qwen3", seed=77)),
    )
    report = audit(engine, law_of(model), PROMPTS, samples=600, depth=3)
    assert report.failures() == (), report.table()
    made = [check.name for check in report.checks if check.passed is not None]
    assert len(made) >= len(report.checks) - 1, report.table()


def test_transformers_own_sampling_is_acquitted(model: Any) -> None:
    report = audit(transformers_engine(model, length=5), law_of(model), PROMPTS, samples=600, depth=3)
    assert report.failures() == (), report.table()
    assert report.verdict == "incomplete", "it takes one seed a call"


def test_transformers_with_an_option_that_changes_the_law_is_convicted(model: Any) -> None:
    engine = transformers_engine(model, length=5, repetition_penalty=1.5)
    assert audit(engine, law_of(model), PROMPTS, samples=600, depth=2).verdict == "fail"


def test_an_option_of_the_audits_own_is_refused(model: Any) -> None:
    with pytest.raises(ConfigError, match=r"temperature: the audit sets it itself"):
        transformers_engine(model, length=3, temperature=0.5)
    sampled = transformers_engine(model, length=3, prompt_lookup_num_tokens=2).sample(
        [1, 2], 3, SamplingParams(), 0
    )
    assert [len(s) for s in sampled] == [3, 3, 3]
