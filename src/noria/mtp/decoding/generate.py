"""A replacement for `model.generate` that drafts: tensors in, tensors out, as transformers has them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from noria.core.errors import ConfigError, DataError
from noria.mtp.acceptance.sampling import SamplingParams
from noria.mtp.acceptance.streams import Streams
from noria.mtp.decoding.decoder import Decoder, Request
from noria.mtp.decoding.drafter import HeadDrafter
from noria.mtp.heads.head import MTPHead
from noria.mtp.types import Rule

TAKEN = {
    "do_sample",
    "eos_token_id",
    "max_length",
    "max_new_tokens",
    "min_p",
    "num_return_sequences",
    "pad_token_id",
    "temperature",
    "top_k",
    "top_p",
}
"""Options that mean here what they mean to transformers."""
SILENT = {
    "assistant_confidence_threshold",
    "assistant_lookbehind",
    "bos_token_id",
    "cache_implementation",
    "compile_config",
    "decoder_start_token_id",
    "disable_compile",
    "low_memory",
    "max_matching_ngram_size",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "prefill_chunk_size",
    "synced_gpus",
    "target_lookbehind",
    "transformers_version",
    "use_cache",
}
"""Options that do not change text. Any other must have the value that transformers gives it when nothing is said."""


def drafted_generate(
    model: Any,
    head: MTPHead | None,
    input_ids: Tensor,
    *,
    attention_mask: Tensor | None = None,
    generation_config: Any = None,
    gamma: int = 3,
    rule: Rule = "rejection",
    vocab: int | None = None,
    seed: int | None = None,
    **options: Any,
) -> Tensor:
    """Complete a padded batch, as `model.generate` would.

    Args:
        model: a Hugging Face causal language model.
        head: what drafts; None decodes plainly.
        input_ids: prompts [rows, n], padded on the left.
        attention_mask: 1 at tokens, 0 at padding [rows, n]; by default, as for transformers, 0 at the pad token if that
            is no end token, too.
        generation_config: generation settings of transformers; the model's own by default.
        gamma: drafts of a round.
        rule: how drafts are verified.
        vocab: how many logits are tokens.
        seed: seed of this call; drawn from PyTorch's own generator by default, so `torch.manual_seed` holds.
        options: options of `generate`; they beat the configuration.

    Returns:
        Prompts with their completions [rows, n + new], padded on the right.

    Raises:
        ConfigError: an option that this decoder does not have, such as beams.
        DataError: an empty prompt, a token outside the vocabulary, or a length the model cannot hold.
    """
    n = input_ids.shape[1]
    config, new = _settings(model, generation_config, options, n)
    sampled = bool(config.do_sample)
    params = SamplingParams(
        temperature=float(config.temperature) if sampled else 0.0,
        top_k=int(config.top_k or 0) if sampled else 0,
        top_p=float(config.top_p) if sampled else 1.0,
        min_p=float(config.min_p or 0.0) if sampled else 0.0,
    )
    ends = config.eos_token_id
    eos: Sequence[int] = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    pad = config.pad_token_id
    if pad is None:
        pad = eos[0] if eos else -1  # transformers pads with the end token, then
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids) if pad in eos else input_ids != pad
    if attention_mask.shape != input_ids.shape:
        raise DataError(
            f"an attention_mask {list(attention_mask.shape)} of input_ids {list(input_ids.shape)}",
            where="generate",
            mend="give 1 at tokens and 0 at padding",
        )
    input_ids, mask = (
        t.repeat_interleave(config.num_return_sequences, dim=0) for t in (input_ids, attention_mask)
    )
    prompts = [row[keep.bool()].tolist() for row, keep in zip(input_ids, mask, strict=True)]
    if seed is None:
        seed = int(torch.randint(2**31, ()))
    seeds = Streams.derived(seed, len(prompts)).seeds.tolist()
    drafter = None if head is None else HeadDrafter(head)
    decoder = Decoder(model, drafter, gamma=gamma, rule=rule, eos=eos, vocab=vocab)
    done = decoder.generate(
        [Request(prompt, new, params, own) for prompt, own in zip(prompts, seeds, strict=True)]
    )
    longest = max((len(c.tokens) for c in done), default=0)
    out = input_ids.new_full((len(done), n + longest), max(pad, 0))
    out[:, :n] = input_ids
    for row, completion in enumerate(done):
        out[row, n : n + len(completion.tokens)] = torch.tensor(completion.tokens, device=out.device)
    return out


@contextmanager
def speculative_generate(model: Any, head: MTPHead, **settings: Any) -> Iterator[None]:
    """Within, `model.generate` drafts.

    Args:
        model: whose `generate` is replaced.
        head: what drafts.
        settings: gamma, rule and vocab of :func:`drafted_generate`.
    """
    before = model.__dict__.get("generate")

    def generate(inputs: Tensor | None = None, **options: Any) -> Tensor:
        ids = options.pop("input_ids", inputs)
        return drafted_generate(model, head, ids, **settings, **options)

    replaced: Callable[..., Tensor] = generate
    model.generate = replaced
    try:
        yield
    finally:
        if before is None:
            del model.generate
        else:
            model.generate = before


def _settings(model: Any, settings: Any, options: dict[str, Any], n: int) -> tuple[Any, int]:
    """The generation configuration as `generate` resolves it, and how many tokens behind n are asked for.

    Options beat the configuration that is given, which beats the model's own, which beats transformers' defaults, such
    as `top_k` = 50.

    Raises:
        ConfigError: something in it changes text in a way that this decoder does not know, or leaves no room for a
            token.
    """
    own = model.generation_config
    defaults = own._get_default_generation_params()
    config = copy.deepcopy(own if settings is None else settings)
    config.update(**own.to_dict(), defaults_only=True, allow_custom_entries=True)
    counted = config.max_length is not None or options.get("max_length") is not None
    config.update(**defaults, defaults_only=True)
    unknown = config.update(**options)
    effective = {name: value for name, value in (config.to_dict() | unknown).items() if value is not None}
    for name, value in effective.items():
        if name in TAKEN or name in SILENT or name.startswith("_"):
            continue
        if value is False or value == defaults.get(name):
            continue
        raise ConfigError(
            f"drafted decoding does not know {name}={value!r}"[:120],
            where="generate",
            mend="leave it out, or call the model's own generate",
        )
    if config.max_new_tokens is not None:
        new = int(config.max_new_tokens)
    else:
        new = int(config.max_length) - (n if counted else 0)
    if new < 1:
        raise ConfigError(
            f"the prompts have {n} tokens, max_length is {config.max_length}",
            where="generate",
            mend="give max_new_tokens",
        )
    return config, new
