"""Tiny random pipelines of the four supported families, saved to a folder as diffusers saves real ones.

Weights are random but deterministic; tokenizers are trained in place. Nothing is downloaded. Every family keeps the
traits that break adapters: SD3's static shift of 3 and double text encoder, LongCat's own factor of 1000 and long
fixed text, Flux's guidance embedding, Qwen-Image's ragged text with a mask, three-dimensional VAE and
`shift_terminal`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import ByteLevelBPETokenizer

WIDTH = 16
"""Hidden size of every text encoder."""

WORDS = [
    "a photo of a red cat",
    "two blue birds on a wheel",
    "water lifts the wheel",
    "a green house by the river",
] * 4


def build_sd3(folder: Path, *, seed: int = 0) -> Path:
    """Stable Diffusion 3 with all three text encoders; 32 × 32 pixels are 4 × 4 latents."""
    import diffusers

    torch.manual_seed(seed)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=4,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=8,
    )
    pipe = diffusers.StableDiffusion3Pipeline(
        transformer=_awake(transformer),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(channels=4),
        text_encoder=_clip(projected=True),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=_clip(projected=True),
        tokenizer_2=_clip_tokenizer(),
        text_encoder_3=_t5(2 * WIDTH),
        tokenizer_3=_t5_tokenizer(),
    )
    return _save(pipe, folder)


def build_longcat(folder: Path, *, seed: int = 0) -> Path:
    """LongCat-Image. Its `text_processor` rewrites prompts and needs torchvision: a stand-in takes its place."""
    import diffusers

    torch.manual_seed(seed)
    transformer = diffusers.LongCatImageTransformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=[4, 6, 6],
    )
    tokenizer = _qwen_tokenizer()
    pipe = diffusers.LongCatImagePipeline(
        transformer=_awake(transformer),
        scheduler=_dynamic_scheduler(),
        vae=_vae(channels=16),
        text_encoder=_qwen_vl(len(tokenizer)),
        tokenizer=tokenizer,
        text_processor=tokenizer,
    )
    return _save(pipe, folder)


def build_flux(folder: Path, *, guidance_embeds: bool = True, seed: int = 0) -> Path:
    """Flux; with `guidance_embeds` like FLUX.1-dev, without like FLUX.1-schnell."""
    import diffusers

    torch.manual_seed(seed)
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 6, 6),
    )
    pipe = diffusers.FluxPipeline(
        transformer=_awake(transformer),
        scheduler=_dynamic_scheduler()
        if guidance_embeds
        else diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=_vae(channels=4),
        text_encoder=_clip(projected=False),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=_t5(WIDTH),
        tokenizer_2=_t5_tokenizer(),
    )
    return _save(pipe, folder)


def build_qwen(folder: Path, *, seed: int = 0) -> Path:
    """Qwen-Image, with the real model's dynamic shift and `shift_terminal`."""
    import diffusers

    torch.manual_seed(seed)
    transformer = diffusers.QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    tokenizer = _qwen_tokenizer()
    pipe = diffusers.QwenImagePipeline(
        transformer=_awake(transformer),
        scheduler=_dynamic_scheduler(max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02),
        vae=diffusers.AutoencoderKLQwenImage(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.5, 0.5, 2.0, 1.0],
        ),
        text_encoder=_qwen_vl(len(tokenizer)),
        tokenizer=tokenizer,
    )
    return _save(pipe, folder)


BUILDERS: dict[str, Callable[[Path], Path]] = {
    "sd3": build_sd3,
    "longcat": build_longcat,
    "flux": build_flux,
    "qwen": build_qwen,
}


def _save(pipe: Any, folder: Path) -> Path:
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def _awake(transformer: Any) -> Any:
    """Random weights everywhere: a zero-initialised output or gate would let any mistake in its input pass."""
    with torch.no_grad():
        for p in transformer.parameters():
            if p.ndim > 1:
                p.copy_(torch.randn_like(p) / p.shape[-1] ** 0.5)
            else:
                p.copy_(p + torch.randn_like(p) * 0.1)
    return transformer.eval()


def _dynamic_scheduler(**settings: Any) -> Any:
    import diffusers

    settings = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "shift": 1.0} | settings
    # A token count of 4 to 16 would hardly move μ between real models' 256 and 4096.
    return diffusers.FlowMatchEulerDiscreteScheduler(
        base_image_seq_len=2, **({"max_image_seq_len": 16} | settings)
    )


def _vae(channels: int) -> Any:
    import diffusers

    return diffusers.AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[4, 4, 4, 4],
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=2,
        scaling_factor=1.5,
        shift_factor=0.06,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()


def _clip(*, projected: bool) -> Any:
    import transformers

    config = transformers.CLIPTextConfig(
        vocab_size=len(_clip_tokenizer()),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=0,
        eos_token_id=1,
    )
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return kind(config).eval()


def _clip_tokenizer() -> Any:
    import transformers

    special = ["<|startoftext|>", "<|endoftext|>"]
    vocab = special + [c + end for c in map(chr, range(97, 123)) for end in ("", "</w>")]
    merges = [("t", "h"), ("th", "e</w>"), ("c", "a"), ("ca", "t</w>")]
    vocab += ["".join(pair) for pair in merges]
    return transformers.CLIPTokenizer(
        vocab={token: i for i, token in enumerate(vocab)}, merges=merges, model_max_length=77
    )


def _t5(width: int) -> Any:
    import transformers

    config = transformers.T5Config(
        vocab_size=len(_t5_tokenizer()), d_model=width, d_kv=8, d_ff=2 * WIDTH, num_layers=1, num_heads=2
    )
    return transformers.T5EncoderModel(config).eval()


def _t5_tokenizer() -> Any:
    import transformers

    pieces = ["<pad>", "</s>", "<unk>", "▁", *map(chr, range(97, 123)), "▁the", "▁a", "▁cat"]
    vocab = [(piece, 0.0 if i < 3 else -float(len(pieces) - i)) for i, piece in enumerate(pieces)]
    return transformers.T5TokenizerFast(vocab=vocab, extra_ids=0, model_max_length=512)


def _qwen_tokenizer() -> Any:
    import json

    import transformers

    trainer = ByteLevelBPETokenizer()
    trainer.train_from_iterator(WORDS, vocab_size=320, show_progress=False)
    model = json.loads(trainer.to_str())["model"]
    tokenizer = transformers.Qwen2Tokenizer(
        vocab=model["vocab"], merges=[tuple(m) for m in model["merges"]], model_max_length=2048
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return tokenizer


def _qwen_vl(vocabulary: int) -> Any:
    import transformers

    text = {
        "vocab_size": vocabulary,
        "bos_token_id": None,
        "eos_token_id": 0,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
    }
    vision = {
        "depth": 1,
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
    }
    config = transformers.Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, bos_token_id=None, eos_token_id=0
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config).eval()
