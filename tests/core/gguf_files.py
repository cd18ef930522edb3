"""A tiny model as llama.cpp keeps it."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write_tiny_llama(path: Path) -> Path:
    """Write a random Llama of two layers and 258 tokens."""
    import gguf

    generator = np.random.default_rng(0)
    words = ["<|endoftext|>", *(chr(n) if 33 <= n < 127 else chr(256 + n) for n in range(256)), "ab"]
    width, inner = 16, 32
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(2)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([1] * len(words))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(words), width),
        "output_norm.weight": (width,),
        "output.weight": (len(words), width),
    }
    for layer in range(2):
        shapes |= {
            f"blk.{layer}.attn_norm.weight": (width,),
            f"blk.{layer}.ffn_norm.weight": (width,),
            f"blk.{layer}.attn_q.weight": (width, width),
            f"blk.{layer}.attn_k.weight": (width // 2, width),
            f"blk.{layer}.attn_v.weight": (width // 2, width),
            f"blk.{layer}.attn_output.weight": (width, width),
            f"blk.{layer}.ffn_gate.weight": (inner, width),
            f"blk.{layer}.ffn_up.weight": (inner, width),
            f"blk.{layer}.ffn_down.weight": (width, inner),
        }
    for name, shape in shapes.items():
        writer.add_tensor(name, generator.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
