"""Every causal language model that transformers has is decoded by its own law, or refused with a line.

Tiny models at random, with sliding windows and chunks of four tokens, so that an attention that sees too much or too
little is far off. What is compared is the log-probability of each token drawn in a ragged batch with that of
transformers' own forward pass over the whole text.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from noria.core.errors import DataError, ModelError
from noria.mtp.data import Rows
from noria.mtp.decoding.decoder import Decoder, Request
from noria.mtp.decoding.drafter import HeadDrafter
from noria.mtp.heads.backbone import backbone_states, check_output_layer, most_positions
from noria.mtp.heads.head import MTPHead
from tests.mtp.tiny_models import BACKBONES, tiny

VOCAB, LONGEST, LARGEST = 64, 64, 2e7
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "max_position_embeddings": LONGEST,
    "n_positions": LONGEST,
    "hidden_size": 32,
    "n_embd": 32,
    "d_model": 32,
    "intermediate_size": 48,
    "ffn_dim": 48,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "n_head": 4,
    "n_heads": 4,
    "n_layer": 2,
    "n_layers": 2,
    "rotary_dim": 8,
    "sliding_window": 4,
    "use_sliding_window": True,
    "max_window_layers": 1,
    "window_size": 4,
    "attention_chunk_size": 4,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 4,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCAB,
    "global_head_dim": 8,
    "num_global_key_value_heads": 2,
    "num_kv_shared_layers": 0,
    "pad_token_id": None,
    "eos_token_id": None,
    "bos_token_id": None,
    "tie_word_embeddings": False,
}
LEFT_OUT = ("num_key_value_heads", "head_dim", "layer_types", "sliding_window", "first_k_dense_replace")
"""Sizes that some configurations take as impossible together: left out one after another."""
RIGHT = [
    "apertus",
    "arcee",
    "bitnet",
    "diffllama",
    "dots1",
    "ernie4_5",
    "ernie4_5_moe",
    "exaone4",
    "flex_olmo",
    "gemma",
    "gemma3_text",
    "glm",
    "glm4",
    "glm4_moe",
    "gpt_oss",
    "granite",
    "granitemoe",
    "helium",
    "hunyuan_v1_dense",
    "llama",
    "mimo_v2_flash",
    "minimax_m2",
    "ministral",
    "mistral",
    "mixtral",
    "nemotron",
    "olmo2",
    "olmo3",
    "olmoe",
    "phi3",
    "phimoe",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "qwen3_next",
    "qwen3_5_text",
    "seed_oss",
    "smollm3",
    "stablelm",
    "starcoder2",
]
"""Types that must be decoded, and drafted for; of the others it is enough that they are refused."""
BIG = {"blt", "mllama", "reformer", "gemma4_assistant", "gemma4_unified_assistant"}
"""Types that are no decoder alone, or whose smallest model takes minutes to make."""
KINDS = sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - BIG)
TEXTS = [[5, 9, 12], [7, 3, 8, 4, 11, 6, 2, 20, 13], [4]]


def config_of(kind: str, **more: Any) -> Any:
    """A tiny configuration of a type of model; None where it takes other settings."""
    maker = CONFIG_MAPPING[kind]
    known = set(inspect.signature(maker.__init__).parameters)
    known |= {name for base in maker.__mro__ for name in getattr(base, "__annotations__", {})}
    sizes = {name: size for name, size in SIZES.items() if name in known}
    for name in ("", *LEFT_OUT):
        sizes.pop(name, None)
        try:
            return maker(**sizes | more)
        except Exception:  # configurations raise whatever they like
            continue
    return None


def model_of(kind: str, **more: Any) -> PreTrainedModel:
    """A tiny model with large weights, so that a wrong mask is seen."""
    config = config_of(kind, **more)
    try:
        with torch.device("meta"):
            size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
        if config is None or size > LARGEST:
            raise MemoryError
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config_of(kind, **more)).eval()
    except Exception as error:  # models raise whatever they like
        pytest.skip(f"no tiny {kind}: {type(error).__name__}")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return model


@torch.no_grad()
def worst_error(model: PreTrainedModel, decoder: Decoder, new: int = 9) -> float:
    """Greatest distance in nats between our log-probabilities and those of the model's own forward pass."""
    done = decoder.generate([Request(text, new, seed=n) for n, text in enumerate(TEXTS)])
    worst = 0.0
    for text, completion in zip(TEXTS, done, strict=True):
        ids = torch.tensor([text + completion.tokens])
        logprobs = model(ids, use_cache=False).logits[0, len(text) - 1 : -1].float().log_softmax(-1)
        own = logprobs.gather(-1, torch.tensor(completion.tokens)[:, None])[:, 0]
        worst = max(worst, float((own - torch.tensor(completion.logprobs)).abs().max()))
    return worst


@pytest.mark.parametrize("kind", KINDS)
def test_each_type_of_model_is_decoded_by_its_own_law_or_refused(kind: str) -> None:
    model = model_of(kind)
    try:
        decoder = Decoder(model, eos=[])
        assert worst_error(model, decoder) < 1e-3
    except ModelError:
        assert kind not in RIGHT, "it used to be decoded"
    try:
        head = MTPHead.fresh(model)
        drafted = Decoder(model, HeadDrafter(head), gamma=3, eos=[])
        assert worst_error(model, drafted) < 1e-3
        tokens = torch.arange(2, 14)[None]
        segments = torch.tensor([[0] * 7 + [1] * 5])
        packed = backbone_states(model, Rows.of(tokens, segments=segments))[0]
        alone = [backbone_states(model, Rows.of(part[None]))[0] for part in tokens[0].split([7, 5])]
        torch.testing.assert_close(packed, torch.cat(alone), rtol=1e-3, atol=1e-3)
    except ModelError:
        assert kind not in RIGHT, "it used to have heads"


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["mistral", "phi3", "gemma3_text", "qwen3_moe"])
def test_windows_are_kept_by_every_attention(kind: str, implementation: str) -> None:
    model = model_of(kind)
    model.set_attn_implementation(implementation)
    assert worst_error(model, Decoder(model, eos=[])) < 1e-3


def test_chunks_of_attention_are_kept() -> None:
    kinds = ["chunked_attention", "chunked_attention", "chunked_attention", "full_attention"]
    model = model_of("llama4_text", pad_token_id=0, layer_types=kinds, no_rope_layers=[1, 1, 1, 0])
    assert worst_error(model, Decoder(model, eos=[])) < 1e-3


def test_attention_without_masks_is_refused() -> None:
    model = model_of("llama")
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ModelError, match=r"takes no mask of each row.*sdpa"):
        Decoder(model)


SCALED = [
    ("granite", {"logits_scaling": 8.0}),
    ("granitemoe", {"logits_scaling": 6.0}),
    ("granitemoeshared", {"logits_scaling": 0.5}),
    ("hyperclovax", {"logits_scaling": 2.0}),
    ("cohere", {"logit_scale": 0.0625}),
    ("cohere2", {"logit_scale": 0.25}),
    ("gemma2", {"final_logit_softcapping": 30.0}),
    ("gemma3_text", {"final_logit_softcapping": 30.0}),
    ("vaultgemma", {"final_logit_softcapping": 5000.0}),
    ("nanochat", {"final_logit_softcapping": 15.0}),
    ("falcon_h1", {"lm_head_multiplier": 0.5}),
]


@pytest.mark.parametrize("pad", [None, 0])
@pytest.mark.parametrize(("kind", "more"), SCALED)
def test_logits_that_are_scaled_or_capped_are_refused(
    kind: str, more: dict[str, Any], pad: int | None
) -> None:
    model = model_of(kind, **more, pad_token_id=pad)
    with torch.no_grad():  # weights at which neither scale nor cap shows, as in a model that is not trained
        for p in model.parameters():
            p.mul_(1e-3)
        model.get_input_embeddings().weight[0] = 0
    with pytest.raises(ModelError, match="not those of its output layer"):
        check_output_layer(model)


@pytest.mark.parametrize("family", sorted(BACKBONES))
def test_plain_logits_pass(family: str) -> None:
    check_output_layer(tiny(family))


ROPES: dict[str, dict[str, Any]] = {
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 4,
        "long_factor": [8.0] * 4,
        "original_max_position_embeddings": 16,
    },
    "dynamic": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
    "yarn": {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 1e4,
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "linear": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
}


def grown() -> PreTrainedModel:
    """A model that was trained on 16 positions and stretched to 64."""
    rope = ROPES["longrope"]
    return model_of("phi3", rope_parameters=rope, original_max_position_embeddings=16, sliding_window=None)


@pytest.mark.parametrize("rope", sorted(ROPES))
def test_rotary_positions_do_not_depend_on_the_batch(rope: str) -> None:
    model = grown() if rope == "longrope" else model_of("llama", rope_parameters=ROPES[rope])
    assert most_positions(model.config) == (16 if rope == "longrope" else LONGEST)
    head = MTPHead.fresh(model)
    decoder = Decoder(model, HeadDrafter(head), gamma=3, eos=[])
    room = most_positions(model.config) or 0
    # Right up to the last position, where drafts stand behind it.
    together = [
        Request([3, 4], room - 2, seed=0),
        Request([9] * (room - 3), 3, seed=1),
        Request([7], 4, seed=2),
    ]
    assert worst_error(model, decoder, new=7) < 1e-3
    done = decoder.generate(together)
    for request, completion in zip(together, done, strict=True):
        assert completion.tokens == decoder.generate([request])[0].tokens
        ids = torch.tensor([list(request.prompt) + completion.tokens])
        with torch.no_grad():
            own = model(ids).logits[0, len(request.prompt) - 1 : -1].float().log_softmax(-1)
        wanted = own.gather(-1, torch.tensor(completion.tokens)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(completion.logprobs), wanted, rtol=1e-3, atol=1e-3)
    with pytest.raises(DataError, match=f"make {room + 1} positions, the model holds {room} of every batch"):
        decoder.generate([Request([3], room)])


def test_text_is_not_trained_on_where_positions_depend_on_the_batch() -> None:
    model = grown()
    backbone_states(model, Rows.of(torch.ones(1, 16, dtype=torch.long)))
    with pytest.raises(DataError, match=r"more than 16 tokens.*rows of at most 16"):
        backbone_states(model, Rows.of(torch.ones(1, 17, dtype=torch.long)))


def test_every_type_of_rotary_positions_is_known() -> None:
    """A new one that transformers brings is looked at before it is trusted."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    assert set(ROPE_INIT_FUNCTIONS) == {"linear", "dynamic", "yarn", "longrope", "llama3", "proportional"}


def test_a_head_that_cannot_be_built_says_so() -> None:
    for kind in ("gpt2", "olmo", "moshi"):
        with pytest.raises(ModelError, match=r"final norm|does not run"):
            MTPHead(model_of(kind))
