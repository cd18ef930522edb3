"""The server of the small model: whatever a model prefers, what it answers follows the schema."""

from __future__ import annotations

import msgspec
import pytest
import torch

from noria.core.chat import ChatServer
from noria.reports.agents.asking import Asker, request_for
from noria.reports.agents.prose import Prose
from noria.reports.proof.small_model import GuidedWriter, serving

MATERIAL = '{"evidence": [{"id": "S1#f0"}, {"id": "S12#p3"}, {"id": "D4"}]}'


@pytest.fixture(scope="module")
def writer() -> GuidedWriter:
    """A causal LM with drawn weights: it has no preference for JSON."""
    from transformers import Qwen3ForCausalLM

    from noria.core.models.lm import small_config, train_tokenizer

    tokenizer = train_tokenizer(
        ["the rate was high in 2023, and 7 of 10 ships left.", '{"a": [1, 2], "S1#f0"}'], 320
    )
    torch.manual_seed(0)
    return GuidedWriter(Qwen3ForCausalLM(small_config(len(tokenizer), layers=2)).eval(), tokenizer)


def test_an_answer_is_of_the_schema_and_cites_ids_of_the_prompt(writer: GuidedWriter) -> None:
    request = request_for(Prose, "Write.", [MATERIAL], 400).wire("m")
    schema = request["response_format"]["json_schema"]["schema"]
    prose = msgspec.json.decode(writer.answer(request["messages"], schema), type=Prose)
    assert 1 <= len(prose.sentences) <= 3
    cited = {id for said in prose.sentences for id in said.cites}
    assert cited
    assert cited <= {"S1#f0", "S12#p3", "D4"}


def test_an_asker_needs_no_repair(writer: GuidedWriter) -> None:
    with serving(writer) as url:
        asker = Asker(ChatServer(url=url, model="m", attempts=1))
        assert isinstance(asker.ask(Prose, "Write.", [MATERIAL]), Prose)
    assert (asker.tally.requests, asker.tally.repaired, asker.tally.lost) == (1, 0, 0)
