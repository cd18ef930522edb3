"""Decoders of every kind of attention, at random and tiny."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

VOCAB = 64
COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": 0,
    "tie_word_embeddings": True,
}
LINEAR: dict[str, Any] = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 4,
    "layer_types": ["linear_attention", "full_attention"] * 2,
}
EXPERTS: dict[str, Any] = {"moe_intermediate_size": 24, "num_experts_per_tok": 2}


def deepseek_v3() -> PreTrainedModel:
    more = {
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 4,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "num_key_value_heads": 4,
    }
    return transformers.DeepseekV3ForCausalLM(transformers.DeepseekV3Config(**COMMON | EXPERTS | more))


def gemma2() -> PreTrainedModel:
    """Soft-capped scores, and windows of 8 in every other layer."""
    more = {"sliding_window": 8, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 8}
    return transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**COMMON | more))


def gemma3() -> PreTrainedModel:
    """Windows in all layers but one."""
    more = {
        "sliding_window": 8,
        "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
    }
    return transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**COMMON | more))


def gpt_oss() -> PreTrainedModel:
    """A sink that takes a part of every row, windows in every other layer, experts."""
    more = {"num_local_experts": 4, "sliding_window": 8, **EXPERTS}
    return transformers.GptOssForCausalLM(transformers.GptOssConfig(**COMMON | more))


def llama() -> PreTrainedModel:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**COMMON))


def mistral() -> PreTrainedModel:
    """A window in every layer."""
    return transformers.MistralForCausalLM(transformers.MistralConfig(**COMMON | {"sliding_window": 8}))


def qwen3() -> PreTrainedModel:
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**COMMON))


def qwen3_5() -> PreTrainedModel:
    return transformers.Qwen3_5ForCausalLM(transformers.Qwen3_5TextConfig(**COMMON | LINEAR))


def qwen3_next() -> PreTrainedModel:
    more = {"shared_expert_intermediate_size": 24, "num_experts": 4}
    return transformers.Qwen3NextForCausalLM(transformers.Qwen3NextConfig(**COMMON | LINEAR | EXPERTS | more))


def qwen3_vl() -> PreTrainedModel:
    """A tower that sees, with layers of its own."""
    text = {k: v for k, v in COMMON.items() if k != "tie_word_embeddings"} | {
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 1e4}
    }
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
    vision |= {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}
    config = transformers.Qwen3VLConfig(text_config=text, vision_config=vision)
    return transformers.Qwen3VLForConditionalGeneration(config)


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    make.__name__: make
    for make in (deepseek_v3, gemma2, gemma3, gpt_oss, llama, mistral, qwen3, qwen3_5, qwen3_next, qwen3_vl)
}


def tiny(name: str, *, seed: int = 0) -> PreTrainedModel:
    """A model whose attention is not flat."""
    torch.manual_seed(seed)
    model = MODELS[name]().eval()
    with torch.no_grad():
        for key, p in model.named_parameters():
            if p.ndim > 1 and any(part in key for part in ("q_", "k_", "kv_", "o_proj")):
                p.mul_(8)
            if key.endswith("sinks"):
                p.normal_()
    return model
