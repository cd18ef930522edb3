"""Engines in this process for the audit: our decoder, and transformers' `generate` with any of its options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from noria.core.errors import ConfigError
from noria.core.models.loading import LanguageModel
from noria.mtp.acceptance.sampling import SamplingParams
from noria.mtp.acceptance.streams import Streams
from noria.mtp.decoding.decoder import Completion, Decoder, Drafter, Pick, Request
from noria.mtp.decoding.drafter import HeadDrafter
from noria.mtp.engines.engine import AuditRequest, Draw, Drawn, Engine, Law, sampler_of
from noria.mtp.heads.head import MTPHead
from noria.mtp.types import Rule

BATCH = 256
"""Sequences at a time."""


def law_of(model: Any, *, vocab: int | None = None, batch_size: int = 512) -> Law:
    """The exact next-token distribution of a model, by running it on whole prefixes without a cache.

    Args:
        model: a Hugging Face causal language model.
        vocab: how many logits are real tokens; all by default.
        batch_size: prefixes at a time.
    """

    @torch.no_grad()
    def law(prefixes: Sequence[tuple[int, ...]]) -> Tensor:
        rows: list[Tensor | None] = [None] * len(prefixes)
        by_length: dict[int, list[int]] = {}
        for number, prefix in enumerate(prefixes):
            by_length.setdefault(len(prefix), []).append(number)
        for numbers in by_length.values():
            for start in range(0, len(numbers), batch_size):
                part = numbers[start : start + batch_size]
                ids = torch.tensor([prefixes[n] for n in part], device=model.device)
                logits = model(input_ids=ids, use_cache=False).logits[:, -1, :vocab].float()
                for number, probs in zip(part, logits.softmax(-1).cpu(), strict=True):
                    rows[number] = probs
        return torch.stack([probs for probs in rows if probs is not None])

    return law


class OneToken:
    """A drafter that always proposes one token, with probability 1."""

    def __init__(self, token: int, vocab: int) -> None:
        self.token, self.vocab = token, vocab

    def begin(self, rows: int, capacity: int) -> None:
        """Nothing is kept."""

    def keep(self, rows: Tensor) -> None:
        """Nothing is kept."""

    def propose(
        self, hidden: Tensor, tokens: Tensor, positions: Tensor, counts: Tensor, gamma: int, pick: Pick
    ) -> None:
        """Propose the token at every step; see `noria.mtp.decoding.decoder.Drafter`."""
        logits = hidden.new_full((len(tokens), self.vocab), -torch.inf)
        logits[:, self.token] = 0.0
        for step in range(gamma):
            pick(step, logits)


def decoder_engine(
    model: Any,
    drafter: Drafter | None = None,
    *,
    length: int,
    gamma: int = 3,
    rule: Rule = "rejection",
    vocab: int | None = None,
    stale: Drafter | None = None,
    disjoint: Drafter | None = None,
) -> Engine:
    """Our decoder as an engine.

    Args:
        model: the target.
        drafter: what drafts.
        length: tokens of a sequence; at least `gamma + 1` more than the audit's depth sees every case.
        gamma: drafts of a round.
        rule: how drafts are verified.
        vocab: how many logits are real tokens.
        stale: another drafter, which has fallen behind; the sampler must not depend on it.
        disjoint: one that proposes what the target does not say, such as :class:`OneToken`.
    """

    def run(drafts: Drafter | None, requests: Sequence[Request], eos: Sequence[int]) -> list[Drawn]:
        decoder = Decoder(model, drafts, gamma=gamma, rule=rule, eos=eos, vocab=vocab)
        done: list[Completion] = []
        for start in range(0, len(requests), BATCH):
            done += decoder.generate(requests[start : start + BATCH])
        return [(completion.tokens, completion.logprobs) for completion in done]

    def drawing(drafts: Drafter | None) -> Draw:
        def draw(
            prompt: Sequence[int], n: int, params: SamplingParams, seed: int, most: int, end: int | None
        ) -> list[Drawn]:
            seeds = Streams.derived(seed, n).seeds.tolist()
            requests = [Request(list(prompt), most, params, own) for own in seeds]
            return run(drafts, requests, [] if end is None else [end])

        return draw

    def batch(requests: Sequence[AuditRequest]) -> list[list[int]]:
        decoded = [Request(list(r.prompt), length, r.params, r.seed) for r in requests]
        return [tokens for tokens, _ in run(drafter, decoded, [])]

    drafts = "plain" if drafter is None else f"{rule}, {gamma} drafts"
    return Engine.of(
        drawing(drafter),
        length,
        name=f"noria ({drafts})",
        batch=batch,
        stale=None if stale is None else sampler_of(drawing(stale), length),
        disjoint=None if disjoint is None else sampler_of(drawing(disjoint), length),
    )


def policy_engine(
    policy: LanguageModel, head: MTPHead | None, prompt: list[int], *, length: int, gamma: int, rule: Rule
) -> Engine:
    """Our decoder with a head, with one that has fallen behind, and with drafts that the model hardly ever says.

    Args:
        policy: the target.
        head: the head that drafts; None decodes plainly.
        prompt: a text behind which the least probable token is what the target never says.
        length: tokens of the sequences that are sampled.
        gamma: drafts of a round.
        rule: how drafts are verified.
    """
    if head is None:
        return decoder_engine(policy.model, length=length, vocab=policy.vocab)
    stale = MTPHead(policy.model, layout=head.layout, layers=head.layers)
    stale.load_state_dict(head.state_dict())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in stale.parameters():
            spread = p.float().std().item() if p.numel() > 1 else 0.0
            p.add_((torch.randn(p.shape, generator=generator) * spread).to(p))
        ids = torch.tensor([prompt], device=policy.model.device)
        never = int(policy.model(input_ids=ids).logits[0, -1, : policy.vocab].argmin())
    return decoder_engine(
        policy.model,
        HeadDrafter(head),
        length=length,
        gamma=gamma,
        rule=rule,
        vocab=policy.vocab,
        stale=HeadDrafter(stale),
        disjoint=OneToken(never, policy.model.get_output_embeddings().weight.shape[0]),
    )


def transformers_engine(model: Any, *, length: int, one_by_one: bool | None = None, **options: Any) -> Engine:
    """Transformers' `generate` with any of its options, such as `use_mtp` or `assistant_model`.

    It has one seed a call, so the checks of seeds within a batch cannot be made.

    Args:
        model: a Hugging Face causal language model.
        length: tokens of the sequences that are sampled.
        one_by_one: a call for each sequence; by default where an option drafts, since such calls take one alone.
        options: options of `generate`.

    Raises:
        ConfigError: an option that the audit sets itself.
    """
    own = {"do_sample", "temperature", "top_k", "top_p", "min_p", "num_return_sequences", "max_new_tokens"}
    if taken := sorted(own & options.keys()):
        raise ConfigError("the audit sets it itself", where=taken[0], mend="leave it out")
    drafting = {"use_mtp", "assistant_model", "prompt_lookup_num_tokens"} & options.keys()
    alone = bool(drafting) if one_by_one is None else one_by_one

    @torch.no_grad()
    def generate(
        prompt: Sequence[int],
        n: int,
        params: SamplingParams,
        seed: int,
        tokens: int,
        end: int | None,
        scores: bool,
    ) -> tuple[list[list[int]], list[list[float]]]:
        ids = torch.tensor([list(prompt)], device=model.device)
        vocab = model.get_output_embeddings().weight.shape[0]
        settings: dict[str, Any] = {"do_sample": not params.greedy, "max_new_tokens": tokens}
        if not params.greedy:
            settings |= {
                "temperature": params.temperature,
                "top_k": params.top_k or vocab,
                "top_p": params.top_p,
                "min_p": params.min_p or None,
            }
        pad = next(t for t in range(vocab) if t != end)
        settings |= {"eos_token_id": end, "pad_token_id": pad, "return_dict_in_generate": True}
        sequences: list[list[int]] = []
        logprobs: list[list[float]] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            left = n
            while left:
                count = 1 if alone else min(left, BATCH)
                out = model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    num_return_sequences=count,
                    output_scores=scores,
                    **settings | options,
                )
                new = out.sequences[:, ids.shape[1] :]
                for row in range(count):
                    kept = new[row].tolist()
                    if end is not None and end in kept:
                        kept = kept[: kept.index(end) + 1]
                    sequences.append(kept)
                    if scores:
                        logprobs.append(
                            [float(out.scores[i][row].float().log_softmax(-1)[t]) for i, t in enumerate(kept)]
                        )
                left -= count
        return sequences, logprobs

    return Engine(
        lambda prompt, n, params, seed: generate(prompt, n, params, seed, length, None, False)[0],
        name="transformers" + "".join(f", {name}" for name in sorted(drafting)),
        logprobs=lambda prompt, n, params, seed: generate(prompt, n, params, seed, length, None, True),
        stop=lambda prompt, n, params, seed, end, tokens: generate(
            prompt, n, params, seed, tokens, end, False
        )[0],
    )
