"""The tap reads what eager attention would have returned, and leaves the model as it is."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from noria.core.errors import ConfigError, ModelError
from noria.credit.attention import tap as module
from noria.credit.attention.layers import attention_layers, choose_layers, decoder_of, depth_of
from noria.credit.attention.readers import HeadMean, KeptCalls, head_mean
from noria.credit.attention.tap import AttentionTap
from noria.credit.scores.flow import trace_flow
from tests.credit.tiny_models import COMMON, MODELS, VOCAB, tiny


def batch(tokens: int = 23) -> tuple[Tensor, Tensor]:
    """Ids, and a mask with padding on the left, on the right, and none."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, VOCAB, (3, tokens), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    mask[1, 18:] = 0
    return ids, mask


def chosen(model: Any, wanted: Any = "all", **options: Any) -> Any:
    layers = attention_layers(model)
    return choose_layers(layers, wanted, depth=depth_of(model, layers), **options)


def eager(model: Any, layers: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """The mean over the heads of the layers by eager attention, rows of padding zeroed."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        found = model(ids, attention_mask=mask, output_attentions=True, use_cache=False).attentions
    model.set_attn_implementation(before)
    # Hybrid models return one entry for each layer that has attention.
    by_layer = [a for a in found if a is not None]
    numbers = [layer.index for layer in attention_layers(model)]
    mean = torch.stack([by_layer[numbers.index(layer.index)].mean(1) for layer in layers]).mean(0)
    return mean * mask[:, :, None]


@pytest.mark.parametrize("name", MODELS)
def test_what_is_read_is_what_eager_attention_returns(name: str) -> None:
    model = tiny(name)
    ids, mask = batch()
    layers = chosen(model, sliding=True)
    assert len(layers) == (2 if name in ("qwen3_5", "qwen3_next") else 4)
    with torch.no_grad():
        plain = model(ids, attention_mask=mask, use_cache=False).logits
    with AttentionTap(model, layers, {"mean": HeadMean, "kept": KeptCalls}) as tap, torch.no_grad():
        logits = model(ids, attention_mask=mask, use_cache=False).logits
    assert torch.equal(logits, plain)
    read = tap.passes[0]["mean"]
    torch.testing.assert_close(read * mask[:, :, None], eager(model, layers, ids, mask), atol=1e-6, rtol=0)
    assert torch.isfinite(read).all()
    assert float((read * mask[:, :, None]).sum(-1).max()) <= 1 + 1e-5
    # The same rows, made anew in any order.
    for start, stop in ((11, 23), (0, 5)):
        torch.testing.assert_close(
            tap.passes[0]["kept"](start, stop), read[:, start:stop, :stop], atol=1e-6, rtol=0
        )


@pytest.mark.parametrize("name", ["qwen3", "gemma2", "gpt_oss"])
def test_blocks_of_any_size_give_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(name)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, VOCAB, (3, 70), generator=generator)
    layers = chosen(model, sliding=True)
    whole = head_mean(model, layers, input_ids=ids)
    monkeypatch.setitem(module.BLOCK_BYTES, "cpu", 1)  # one row of the batch, 16 tokens
    torch.testing.assert_close(head_mean(model, layers, input_ids=ids), whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(whole, eager(model, layers, ids, torch.ones_like(ids)), atol=1e-6, rtol=0)


def test_streamed_rows_carry_the_same_flow() -> None:
    model = tiny("qwen3")
    ids, mask = batch(60)
    question, answer = torch.zeros(2, *ids.shape, dtype=torch.bool)
    question[:, 7:12] = True
    answer[:, [15, 16]] = True
    layers = chosen(model, "mid", number=2)
    with AttentionTap(model, layers, {"mean": HeadMean, "kept": KeptCalls}) as tap, torch.no_grad():
        model(ids, attention_mask=mask, use_cache=False)
    dense, streamed = (
        trace_flow(tap.passes[0][name], question, answer, valid=mask.bool(), block=16)
        for name in ("mean", "kept")
    )
    torch.testing.assert_close(streamed.flow, dense.flow, atol=1e-6, rtol=1e-5)
    assert set(dense.fallback.tolist()) == {0}


def test_packed_rows_are_told_apart_by_their_positions() -> None:
    model = tiny("qwen3")
    ids, _ = batch(20)
    layers = chosen(model)
    packed, positions = ids[:1], torch.tensor([[*range(8), *range(12)]])
    read = head_mean(model, layers, input_ids=packed, position_ids=positions)
    assert not read[0, 8:, :8].any()
    for part in (slice(0, 8), slice(8, 20)):
        alone = head_mean(model, layers, input_ids=packed[:, part])
        torch.testing.assert_close(read[:, part, part], alone, atol=1e-6, rtol=0)


def test_a_kernel_without_a_mask_is_read_by_its_lengths_and_window() -> None:
    # What flash attention is given: no mask, or padding alone, beside lengths and the window.
    model = tiny("mistral")
    layer = model.model.layers[0].self_attn
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, 20, 8, generator=generator) for heads in (4, 2, 2))

    def weights(mask: Any, positions: Any = None, **options: Any) -> Tensor:
        got: list[Tensor] = []

        class Keep:
            def read(self, index: int, call: Any) -> None:
                got.append(call.weights(0, 20))

            def result(self) -> None: ...

        with AttentionTap(model, attention_layers(model)[:1], {"keep": Keep}) as tap:
            tap._begin(model, (), {"position_ids": positions})
            module._record(tap, layer, q, k, v, mask, {"scaling": 8**-0.5} | options)
            tap._open = None
        return got[0]

    scores = (q @ k.repeat_interleave(2, 1).mT) * 8**-0.5
    back = torch.arange(20)[:, None] - torch.arange(20)
    causal = back >= 0
    lengths = torch.tensor([0, 6, 20])
    same = (torch.arange(20)[:, None] < 6) == (torch.arange(20) < 6)
    padding = torch.ones(2, 20, dtype=torch.long)
    padding[0, :3] = 0
    cases = (
        (None, {}, causal),
        (None, {"sliding_window": 4}, causal & (back < 4)),
        (None, {"cu_seq_lens_q": lengths}, causal & same),
        (padding, {}, causal & padding[:, None, None].bool()),
    )
    for mask, options, allowed in cases:
        expected = scores.masked_fill(~allowed, -torch.inf).softmax(-1).nan_to_num(0)
        torch.testing.assert_close(weights(mask, **options), expected, atol=1e-6, rtol=0)
    anew = torch.cat([torch.arange(6), torch.arange(14)])[None].expand(2, -1)
    expected = scores.masked_fill(~(causal & same), -torch.inf).softmax(-1).nan_to_num(0)
    for positions in (anew, anew.expand(3, -1, -1)):  # of text, and of the three axes of images
        torch.testing.assert_close(weights(None, positions), expected, atol=1e-6, rtol=0)
    with pytest.raises(ModelError, match="cannot be read"):
        weights(object())


def test_gradient_checkpointing_is_read_once_and_learns_the_same() -> None:
    ids, mask = batch()
    gradients = []
    for tapped in (False, True):
        model = tiny("qwen3").train()
        model.gradient_checkpointing_enable({"use_reentrant": False})
        layers = chosen(model)
        tap = AttentionTap(model, layers, {"mean": HeadMean})
        with tap if tapped else contextlib.nullcontext():
            model(ids, attention_mask=mask, labels=ids, use_cache=False).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert len(tap.passes) == 1
    torch.testing.assert_close(
        tap.passes[0]["mean"] * mask[:, :, None], eager(model, layers, ids, mask), atol=1e-6, rtol=0
    )


def test_every_pass_is_one_entry_whoever_wraps_the_model() -> None:
    import peft

    model = tiny("llama")
    ids, mask = batch()
    expected = head_mean(model, chosen(model), input_ids=ids, attention_mask=mask)
    wrapped = torch.nn.DataParallel(peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"])))
    layers = chosen(wrapped.module)
    assert type(decoder_of(wrapped, layers)).__name__ == "LlamaModel"
    given: list[Any] = []
    with AttentionTap(wrapped, layers, {"mean": HeadMean}, on_pass=given.append) as tap, torch.no_grad():
        wrapped(ids, attention_mask=mask, use_cache=False)
        wrapped(ids[1:], attention_mask=mask[1:], use_cache=False)
    assert tap.passes == []
    torch.testing.assert_close(given[0]["mean"], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(given[1]["mean"], expected[1:], atol=1e-6, rtol=0)


def test_nothing_is_left_behind_and_other_models_pass_through() -> None:
    table = transformers.modeling_utils.ALL_ATTENTION_FUNCTIONS
    model, other = tiny("qwen3"), tiny("qwen3", seed=3)
    ids, _ = batch()
    assert "sdpa" not in table._local_mapping
    with AttentionTap(model, chosen(model), {"mean": HeadMean}) as tap, torch.no_grad():
        with AttentionTap(other, chosen(other, [1]), {"mean": HeadMean}) as second:
            other(ids, use_cache=False)
            assert (len(tap.passes), len(second.passes)) == (0, 1)
        model(ids, use_cache=False)
        assert "sdpa" in table._local_mapping
        with pytest.raises(ModelError, match="being read already"):
            AttentionTap(model, chosen(model, [2]), {"mean": HeadMean}).__enter__()
    assert (len(tap.passes), len(second.passes)) == (1, 1)
    assert "sdpa" not in table._local_mapping
    assert model.config._attn_implementation == "sdpa"
    torch.testing.assert_close(
        tap.passes[0]["mean"], eager(model, chosen(model), ids, torch.ones_like(ids)), atol=1e-6, rtol=0
    )


def test_a_cache_is_refused_and_a_failed_pass_keeps_its_own_error() -> None:
    model = tiny("qwen3")
    ids, _ = batch()
    with AttentionTap(model, chosen(model), {"mean": HeadMean}) as tap, torch.no_grad():
        done = model(ids, use_cache=True)  # the first pass may fill one
        with pytest.raises(ModelError, match="use_cache=False"):
            model(ids[:, :1], past_key_values=done.past_key_values)
        with pytest.raises(IndexError):
            model(ids + VOCAB, use_cache=False)
    assert len(tap.passes) == 1


def test_values_weigh_heads_by_what_they_write() -> None:
    model = tiny("qwen3")
    ids, mask = batch()
    (layer,) = chosen(model, [2])
    weighed = head_mean(model, [layer], values=True, input_ids=ids, attention_mask=mask)
    real = mask.bool()
    torch.testing.assert_close(weighed.sum(-1)[real], torch.ones(int(real.sum())), atol=1e-5, rtol=0)
    # By hand: a head's value through the rows of the output projection that are its own.
    model.set_attn_implementation("eager")
    values: list[Tensor] = []
    handle = layer.module.v_proj.register_forward_hook(lambda m, i, o: values.append(o))
    with torch.no_grad():
        attention = model(ids, attention_mask=mask, output_attentions=True, use_cache=False).attentions[2]
    handle.remove()
    by_head = values[0].view(3, 23, 2, 8).transpose(1, 2).repeat_interleave(2, 1)
    output = layer.module.o_proj.weight.view(32, 4, 8)
    norms = torch.stack([(by_head[:, h] @ output[:, h].T).norm(dim=-1) for h in range(4)], 1)
    mixed = (attention * norms[:, :, None]).sum(1)
    expected = (mixed / mixed.sum(-1, keepdim=True)) * real[:, :, None]
    torch.testing.assert_close(weighed * real[:, :, None], expected, atol=1e-5, rtol=0)


def test_layers_by_name_range_and_number() -> None:
    model = transformers.Qwen3Model(transformers.Qwen3Config(**COMMON | {"num_hidden_layers": 36}))
    layers = attention_layers(model)

    def numbers(wanted: Any, **options: Any) -> list[int]:
        return [layer.index for layer in choose_layers(layers, wanted, depth=36, **options)]

    assert numbers("mid") == [12, 15, 18, 21, 24]  # five equally spaced ones of the middle third
    assert numbers("mid", number=1) == [18]
    assert numbers("early")[-1] == 11
    assert numbers("late")[0] == 25
    assert numbers("all") == list(range(36))
    assert numbers("15-25") == list(range(15, 26))
    assert numbers("3, 9") == numbers([3, 9]) == [3, 9]
    assert numbers(12) == [12]
    for wanted in ("middle", "", [], "3,3"):
        with pytest.raises(ConfigError, match="names no layers"):
            numbers(wanted)
    with pytest.raises(ModelError, match="there is no layer 36"):
        numbers([36])


def test_hybrid_models_are_read_where_they_have_softmax_attention() -> None:
    model = tiny("qwen3_next")
    assert [layer.index for layer in attention_layers(model)] == [1, 3]
    assert [layer.index for layer in chosen(model, "mid")] == [1]
    assert [layer.index for layer in chosen(model, "0-3")] == [1, 3]
    with pytest.raises(ModelError, match=r"layer 2 has no softmax attention; those that have it are 1, 3"):
        chosen(model, [1, 2])
    with pytest.raises(ModelError, match="no layer from 0 to 0 has softmax attention"):
        chosen(model, "early")
    mamba = transformers.MambaForCausalLM(
        transformers.MambaConfig(vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, state_size=4)
    )
    with pytest.raises(ModelError, match="MambaForCausalLM"):
        attention_layers(mamba)


def test_windowed_layers_are_read_where_there_are_no_others() -> None:
    gemma = tiny("gemma3")
    assert [layer.sliding for layer in attention_layers(gemma)] == [8, 8, None, 8]
    assert [layer.index for layer in chosen(gemma, "mid")] == [2]
    assert [layer.index for layer in chosen(gemma, "mid", sliding=True)] == [1, 2]
    with pytest.raises(ModelError, match="no layer from 3 to 3 has full attention"):
        chosen(gemma, "late", sliding=False)
    assert [layer.index for layer in chosen(tiny("mistral"), "mid")] == [1, 2]


def test_the_language_model_of_a_multimodal_model_is_read() -> None:
    names = [layer.name for layer in attention_layers(tiny("qwen3_vl"))]
    assert names == [f"model.language_model.layers.{n}.self_attn" for n in range(4)]
    speaking = torch.nn.ModuleDict({"talker": tiny("qwen3"), "language_model": tiny("llama")})
    names = [layer.name for layer in attention_layers(speaking)]
    assert names == [f"language_model.model.layers.{n}.self_attn" for n in range(4)]
