"""A replacement for `model.generate` that drafts: tensors in, tensors out, as transformers has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from noria.core.errors import ConfigError
from noria.mtp.decoder import Decoder, Request
from noria.mtp.drafter import HeadDrafter
from noria.mtp.heads import MTPHead
from noria.mtp.names import Rule
from noria.mtp.sampling import SamplingParams, Streams

__all__ = ["drafted_generate", "speculative_generate"]

TAKEN = {
    "do_sample",
    "eos_token_id",
    "max_length",
    "max_new_tokens",
    "min_p",
    "pad_token_id",
    "temperature",
    "top_k",
    "top_p",
}
"""Options that mean here what they mean to transformers."""
NEUTRAL: dict[str, Any] = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "encoder_repetition_penalty": 1.0,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
}
"""Options that change text, with the values at which they do not."""
SILENT = {"bos_token_id", "decoder_start_token_id", "disable_compile", "use_cache", "transformers_version"}
"""Options that do not change text."""


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
    """Go on from a padded batch, as `model.generate` would.

    Args:
        model: a Hugging Face causal language model.
        head: what drafts; None decodes plainly.
        input_ids: prompts [rows, n], padded on the left.
        attention_mask: 1 at tokens, 0 at padding [rows, n]; all 1 by default.
        generation_config: as of transformers; the model's own by default.
        gamma: drafts a round.
        rule: how they are verified.
        vocab: how many logits are tokens.
        seed: of this call; drawn from PyTorch's own generator by default, so `torch.manual_seed` holds.
        options: as of `generate`; they beat the configuration.

    Returns:
        Prompts with their completions [rows, n + new], padded on the right.

    Raises:
        ConfigError: an option that this decoder does not have, such as beams.
        DataError: as of the decoder.
    """
    settings = _settings(generation_config or model.generation_config, options)
    sampled = bool(settings.get("do_sample"))
    params = SamplingParams(
        temperature=float(settings.get("temperature") or 1.0) if sampled else 0.0,
        top_k=int(settings.get("top_k") or 0) if sampled else 0,
        top_p=float(settings.get("top_p") or 1.0) if sampled else 1.0,
        min_p=float(settings.get("min_p") or 0.0) if sampled else 0.0,
    )
    ends = settings.get("eos_token_id")
    eos: Sequence[int] = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    pad = settings.get("pad_token_id")
    pad = (eos[0] if eos else 0) if pad is None else pad
    n = input_ids.shape[1]
    new = settings.get("max_new_tokens")
    if new is None:
        new = int(settings.get("max_length") or 20) - n
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    prompts = [row[keep.bool()].tolist() for row, keep in zip(input_ids, mask, strict=True)]
    if seed is None:
        seed = int(torch.randint(2**31, ()))
    seeds = Streams.derived(seed, len(prompts)).seeds.tolist()
    drafter = None if head is None else HeadDrafter(head)
    decoder = Decoder(model, drafter, gamma=gamma, rule=rule, eos=eos, vocab=vocab)
    done = decoder.generate(
        [Request(prompt, int(new), params, own) for prompt, own in zip(prompts, seeds, strict=True)]
    )
    longest = max(len(c.tokens) for c in done)
    out = input_ids.new_full((len(done), n + longest), pad)
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


def _settings(config: Any, options: dict[str, Any]) -> dict[str, Any]:
    """What the configuration and the options say.

    Raises:
        ConfigError: one of them changes text in a way that this decoder does not know.
    """
    known = set(config.to_dict()) | set(config.__dict__)
    said = {name: value for name, value in config.to_diff_dict().items() if value is not None} | {
        name: value for name, value in options.items() if value is not None
    }
    for name, value in said.items():
        if name in TAKEN or name in SILENT or name.startswith("_"):
            continue
        if name in NEUTRAL and value == NEUTRAL[name]:
            continue
        if name in options or (name in known and name in NEUTRAL):
            raise ConfigError(
                f"drafted decoding does not know {name}={value!r}"[:120],
                where="generate",
                mend="leave it out, or call the model's own generate",
            )
    return said
