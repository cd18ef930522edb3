"""A ragged batch in one cache gives each row what it would get alone."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from noria.core.errors import ModelError
from noria.core.models.lm import small_config
from noria.mtp.decoding.cache import RaggedCache, attention_kinds


@pytest.fixture(scope="module", params=["full", "sliding"])
def model(request: pytest.FixtureRequest) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    more = {}
    if request.param == "sliding":
        more = {
            "sliding_window": 4,
            "use_sliding_window": True,
            "layer_types": ["full_attention", "sliding_attention"],
        }
    return Qwen3ForCausalLM(small_config(50, width=32, layers=2, heads=2, **more)).eval()


def call(
    model: Qwen3ForCausalLM, cache: RaggedCache, tokens: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    cache.place(positions)
    with torch.no_grad():
        return model(
            input_ids=tokens,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).logits


def alone(model: Qwen3ForCausalLM, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(tokens[None]).logits[0]


def test_rows_of_different_lengths_and_rejected_drafts_leave_no_trace(model: Qwen3ForCausalLM) -> None:
    generator = torch.Generator().manual_seed(1)
    cache = RaggedCache(3, 40)
    truth = torch.randint(2, 50, (3, 30), generator=generator)
    written = torch.zeros(3, dtype=torch.long)
    steps = torch.arange(5)
    for keep in ([3, 1, 5], [2, 5, 1], [5, 5, 2], [1, 1, 4]):
        positions = written[:, None] + steps
        tokens = truth.gather(1, positions)
        junk = torch.randint(2, 50, tokens.shape, generator=generator)
        stays = torch.tensor(keep)
        given = torch.where(steps < stays[:, None], tokens, junk)
        logits = call(model, cache, given, positions)
        for row in range(3):
            wanted = alone(model, torch.cat([truth[row, : written[row]], given[row]]))[written[row] :]
            torch.testing.assert_close(logits[row], wanted, rtol=1e-4, atol=1e-5)
        written = written + stays
        cache.lengths = written
    assert cache.get_seq_length() == int(written.max())


def test_rows_that_leave_take_nothing_with_them(model: Qwen3ForCausalLM) -> None:
    tokens = torch.randint(2, 50, (3, 6), generator=torch.Generator().manual_seed(2))
    cache = RaggedCache(3, 20)
    call(model, cache, tokens, torch.arange(6).expand(3, 6))
    cache.lengths = torch.tensor([6, 4, 6])
    cache.keep(torch.tensor([1]))
    more = torch.tensor([[7]])
    logits = call(model, cache, more, torch.tensor([[4]]))
    torch.testing.assert_close(
        logits[0, 0], alone(model, torch.cat([tokens[1, :4], more[0]]))[-1], rtol=1e-4, atol=1e-5
    )


def test_slots_grow_with_what_is_written_and_not_with_what_may_be(model: Qwen3ForCausalLM) -> None:
    cache, generator = RaggedCache(2, 100_000), torch.Generator().manual_seed(0)
    tokens = torch.randint(50, (2, 300), generator=generator)
    found = []
    for start in range(0, 300, 50):
        positions = torch.arange(start, start + 50).expand(2, 50)
        found.append(call(model, cache, tokens[:, start : start + 50], positions))
        cache.lengths = positions[:, -1] + 1
        assert start + 50 <= cache._keys[0].shape[2] <= 2 * (start + 50) + 128
    for row in range(2):
        torch.testing.assert_close(torch.cat(found, 1)[row], alone(model, tokens[row]), rtol=1e-4, atol=1e-4)


def test_a_full_cache_says_so() -> None:
    with pytest.raises(ValueError, match="position 8 does not fit a cache of 8"):
        RaggedCache(1, 8).place(torch.tensor([[8]]))


def test_recurrent_layers_are_refused() -> None:
    assert attention_kinds(Qwen3Config(num_hidden_layers=2)) == ["full_attention"] * 2
    config = Qwen3Config(num_hidden_layers=2)
    config.layer_types = ["mamba", "full_attention"]
    with pytest.raises(ModelError, match="mamba"):
        attention_kinds(config)
