"""Backbones of every supported family, at random and tiny."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from noria.core.models.lm import small_config

VOCAB = 40
COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": None,
    "tie_word_embeddings": False,
}
EXPERTS: dict[str, Any] = {
    "moe_intermediate_size": 24,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
LINEAR: dict[str, Any] = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 4,
    "layer_types": ["linear_attention", "full_attention"],
}


def qwen3(**more: Any) -> PreTrainedModel:
    return transformers.Qwen3ForCausalLM(small_config(VOCAB, width=32, layers=2, heads=4, **more))


def deepseek_v3(**more: Any) -> PreTrainedModel:
    config = transformers.DeepseekV3Config(
        **COMMON
        | EXPERTS
        | {
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
        }
        | {"num_key_value_heads": 4}
        | more
    )
    return transformers.DeepseekV3ForCausalLM(config)


def glm4_moe(**more: Any) -> PreTrainedModel:
    return transformers.Glm4MoeForCausalLM(transformers.Glm4MoeConfig(**COMMON | EXPERTS | more))


def mimo(**more: Any) -> PreTrainedModel:
    """MiMo is a Qwen2 whose configuration goes by another name."""
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**COMMON | more))


def qwen3_next(**more: Any) -> PreTrainedModel:
    experts = {"moe_intermediate_size": 24, "shared_expert_intermediate_size": 24, "num_experts": 4}
    config = transformers.Qwen3NextConfig(**COMMON | LINEAR | experts | {"num_experts_per_tok": 2} | more)
    return transformers.Qwen3NextForCausalLM(config)


def qwen3_5(**more: Any) -> PreTrainedModel:
    config = transformers.Qwen3_5TextConfig(**COMMON | LINEAR | more)
    return transformers.Qwen3_5ForCausalLM(config)


BACKBONES: dict[str, Callable[..., PreTrainedModel]] = {
    "qwen3": qwen3,
    "qwen3_next": qwen3_next,
    "qwen3_5": qwen3_5,
    "deepseek_v3": deepseek_v3,
    "glm4_moe": glm4_moe,
    "mimo": mimo,
}
LAYOUT_OF = {
    "qwen3": "qwen",
    "qwen3_next": "qwen",
    "qwen3_5": "qwen",
    "deepseek_v3": "deepseek",
    "glm4_moe": "deepseek",
    "mimo": "mimo",
}


def tiny(family: str, *, seed: int = 0, **more: Any) -> PreTrainedModel:
    """A backbone whose distributions are not flat."""
    torch.manual_seed(seed)
    model = BACKBONES[family](**more).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.mul_(2)
    return model


def head_of(model: PreTrainedModel, family: str, *, layers: int = 1, seed: int = 1) -> Any:
    """A head at random, its norms too, in the family's layout."""
    from noria.mtp.heads.head import MTPHead
    from noria.mtp.heads.layouts import LAYOUTS

    head = MTPHead(model, layout=LAYOUTS[LAYOUT_OF[family]], layers=layers).eval()  # type: ignore[index]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in head.parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(0.2 * noise if p.ndim > 1 else p.mean().nan_to_num(0) + 1 + 0.2 * noise)
    return head
