"""The small planner of the proofs: a Qwen3-VL model of half a million weights, in a plain Hugging Face folder.

Everything about it is standard (`Qwen3VLForConditionalGeneration`, a fast tokenizer, `Qwen2VLImageProcessor`), so the
code that trains it trains the published models. One merged patch of its vision tower covers 24 × 24 pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noria.core.digests import weight_files, write_digests
from noria.core.errors import require
from noria.core.files import appearing
from noria.editing.planner.loading import save_processor

SPECIAL = (
    "<|pad|>",
    "<|end|>",
    "<|user|>",
    "<|assistant|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|unknown|>",
)
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
TEMPLATE = (
    "{% for m in messages %}{% if m.role != 'system' %}{{ '<|user|> ' if m.role == 'user' else '<|assistant|> ' }}"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
    "{% if c.type == 'image' %}<|vision_start|> <|image_pad|> <|vision_end|> {% else %}{{ c.text }}{% endif %}"
    "{% endfor %}{% endif %}{{ ' ' if m.role == 'user' else ' <|end|> ' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)


@dataclass(frozen=True)
class SmallPlannerConfig:
    """Sizes of a small planner.

    Attributes:
        width: width of the language model.
        layers: number of layers of the language model.
        heads: number of attention heads; the width of one is a multiple of 8.
        vision_width, vision_layers: width and number of layers of the vision tower.
        patch: width of a patch in pixels; 2 × 2 of them are one token.
        side: width of the pictures in pixels.
        seed: seed of the first weights.
    """

    width: int = 96
    layers: int = 3
    heads: int = 4
    vision_width: int = 64
    vision_layers: int = 2
    patch: int = 12
    side: int = 96
    seed: int = 0


def new_planner(folder: Path, words: Iterable[str], config: SmallPlannerConfig | None = None) -> Path:
    """Write an untrained small planner into a new folder.

    Args:
        folder: where it is written; must not exist.
        words: words of the language; others are read as unknown.
        config: sizes of the model; the usual ones by default.

    Raises:
        MissingExtra: transformers is not installed.
        RunError: the disk refuses.
    """
    torch, transformers = require("torch", "editing"), require("transformers", "editing")
    config = config or SmallPlannerConfig()
    tokenizer = _tokenizer(words)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = transformers.Qwen3VLForConditionalGeneration(_model_config(config, tokenizer))
    processor = transformers.Qwen2VLImageProcessorPil(
        patch_size=config.patch,
        temporal_patch_size=1,
        merge_size=2,
        size={"shortest_edge": config.side**2, "longest_edge": config.side**2},
    )
    with appearing(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        save_processor(processor, temporary)
        write_digests(temporary, weight_files(temporary))
    return folder


def _tokenizer(words: Iterable[str]) -> Any:
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = dict.fromkeys((*SPECIAL, *TAGS, *words))
    level = models.WordLevel({word: n for n, word in enumerate(vocabulary)}, unk_token="<|unknown|>")
    core = Tokenizer(level)
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        unk_token="<|unknown|>",
        additional_special_tokens=list(SPECIAL[2:8]),
        chat_template=TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _model_config(config: SmallPlannerConfig, tokenizer: Any) -> Any:
    import transformers

    width, head = config.width, config.width // config.heads
    third = head // 2 // 3
    names = ("image_pad", "video_pad", "vision_start", "vision_end")
    image, video, start, end = (tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in names)
    return transformers.Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": width,
            "intermediate_size": 3 * width,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "num_key_value_heads": config.heads,
            "head_dim": head,
            "max_position_embeddings": 1024,
            "tie_word_embeddings": True,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": None,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [head // 2 - 2 * third, third, third],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": config.vision_layers,
            "hidden_size": config.vision_width,
            "intermediate_size": 2 * config.vision_width,
            "num_heads": 4,
            "patch_size": config.patch,
            "temporal_patch_size": 1,
            "spatial_merge_size": 2,
            "out_hidden_size": width,
            "num_position_embeddings": (config.side // config.patch) ** 2,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
        tie_word_embeddings=True,
    )
