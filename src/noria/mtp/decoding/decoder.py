"""Speculative decoding of a ragged batch on a Hugging Face model: draft, verify in one pass, keep what passes.

Each request has its own prompt length, sampling parameters, seed and limits, and leaves the batch when it is done. Its
tokens follow the model's own law whatever drafts them, and do not depend on who else is in the batch but for round-off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from noria.core.errors import ConfigError, DataError, ModelError
from noria.mtp.acceptance.sampling import SamplingParams, processed, sample
from noria.mtp.acceptance.streams import Streams
from noria.mtp.acceptance.verify import Verification, verify
from noria.mtp.decoding.cache import ATTENTIONS, RaggedCache, attention_kinds
from noria.mtp.heads.backbone import (
    check_output_layer,
    close,
    decoder_of,
    most_positions,
    once,
    refuse_unless,
    trial_tokens,
)
from noria.mtp.heads.recurrent import RecurrentStates, linear_layers
from noria.mtp.types import MAX_GAMMA, Rule

Pick = Callable[[int, Tensor], Tensor]
"""(step, draft logits [rows, vocab]) → the tokens [rows] drawn for that step; what they were drawn from is kept."""


@dataclass(frozen=True)
class Request:
    """One prompt to complete.

    Attributes:
        prompt: token numbers, at least one.
        max_new_tokens: the most tokens to add.
        params: temperature and filters.
        seed: seed of this request's random numbers. Requests of one seed draw the same ones: give each its own, such as
            those of `Streams.derived`.
    """

    prompt: Sequence[int]
    max_new_tokens: int
    params: SamplingParams = field(default_factory=SamplingParams)
    seed: int = 0


@dataclass
class Completion:
    """The completion of one request.

    Attributes:
        tokens: the new tokens, the end token included.
        logprobs: log p of each under the model after temperature and filters: the behaviour policy of RL.
        finish: `stop` at an end token, `length` at the limit, `invalid` where the model's logits held NaN or +∞.
        drafted: rounds in which a draft stood at step 1, 2, …
        accepted: rounds in which the drafts up to step 1, 2, … were all accepted.
    """

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: Literal["stop", "length", "invalid"] = "length"
    drafted: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)


def served_counts(completions: Sequence[Completion]) -> tuple[list[int], list[int]]:
    """Rounds in which a draft stood at step 1, 2, …, and those whose drafts up to there were all accepted, added up."""
    drafted = [sum(column) for column in zip(*(c.drafted for c in completions), strict=True)]
    accepted = [sum(column) for column in zip(*(c.accepted for c in completions), strict=True)]
    return drafted, accepted


def served_figures(completions: Sequence[Completion]) -> dict[str, float]:
    """Accept length and prefix rates that completions met, as logs name them; nothing where no draft was made."""
    drafted, accepted = served_counts(completions)
    rates = [a / d for a, d in zip(accepted, drafted, strict=True) if d]
    if not rates:
        return {}
    return {"accept_length": 1 + sum(rates)} | {f"prefix_rate_{n}": rate for n, rate in enumerate(rates, 1)}


class Drafter(Protocol):
    """Proposes tokens behind what is committed. It may keep states of its own, row by row."""

    def begin(self, rows: int, capacity: int) -> None:
        """Forget everything; `rows` requests of up to `capacity` positions follow."""
        ...

    def propose(
        self, hidden: Tensor, tokens: Tensor, positions: Tensor, counts: Tensor, gamma: int, pick: Pick
    ) -> None:
        """Take in what was committed since the last call, then draft: call `pick` for steps 0 … gamma − 1.

        Args:
            hidden: the model's last states, after its final norm [rows, n, width].
            tokens: the token that followed each [rows, n].
            positions: places of the states [rows, n], rising by one.
            counts: how many of the n are real [rows].
            gamma: drafts wanted.
            pick: draws the tokens.
        """
        ...

    def keep(self, rows: Tensor) -> None:
        """Keep these rows only."""
        ...


class Decoder:
    """Decodes with a model and a drafter.

    Args:
        model: a Hugging Face causal language model of full, sliding or linear attention layers.
        drafter: what drafts; None decodes plainly, one token a pass.
        gamma: drafts a round.
        rule: how drafts are verified.
        eos: end tokens; those of the model's `generate` by default.
        vocab: how many of the logits are real tokens; all by default.

    Raises:
        ConfigError: `gamma` out of range.
        ModelError: a layer keeps a state that cannot be taken back, or logits are not the output layer's alone.
    """

    def __init__(
        self,
        model: Any,
        drafter: Drafter | None = None,
        *,
        gamma: int = 3,
        rule: Rule = "rejection",
        eos: Sequence[int] | None = None,
        vocab: int | None = None,
    ) -> None:
        if not 1 <= gamma <= MAX_GAMMA:
            raise ConfigError(f"{gamma} drafts a round", where="gamma", mend=f"give 1 to {MAX_GAMMA}")
        self.model, self.drafter, self.rule, self.vocab = model.eval(), drafter, rule, vocab
        self.gamma = gamma if drafter is not None else 0
        self.base, self.head = decoder_of(model), model.get_output_embeddings()
        self._linear = linear_layers(self.base, attention_kinds(model.config))
        self.eos = _end_tokens(model) if eos is None else list(eos)
        self.device = next(model.parameters()).device
        self.longest = most_positions(model.config)
        _check_attention(model)
        check_output_layer(model)
        once("ragged", model, self._try)

    @torch.no_grad()
    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Complete all requests, together.

        Raises:
            DataError: an empty prompt, a token outside the vocabulary, or a length the model cannot hold.
        """
        done = [Completion(drafted=[0] * self.gamma, accepted=[0] * self.gamma) for _ in requests]
        self._check(requests)
        alive = torch.tensor([n for n, r in enumerate(requests) if r.max_new_tokens > 0], dtype=torch.long)
        if not len(alive):
            return done
        batch = _Batch.of([requests[n] for n in alive.tolist()], self.device)
        room = int((batch.lengths + batch.limits).max()) + self.gamma + 1
        cache = RaggedCache(len(alive), room, device=self.device)
        states = RecurrentStates(self._linear, len(alive))
        if self.drafter is not None:
            self.drafter.begin(len(alive), room)

        # The prompt, padded on the right: what lies behind a row's end is hidden until it is overwritten.
        positions = torch.arange(batch.prompts.shape[1], device=self.device).expand_as(batch.prompts)
        with states.attached(batch.lengths):
            hidden = self._forward(batch.prompts, positions, cache)
        cache.lengths = batch.lengths
        row = torch.arange(len(alive), device=self.device)
        verdict = self._judge(batch, hidden[row, batch.lengths - 1][:, None], None, None)
        following = torch.cat([batch.prompts[:, 1:], batch.prompts[:, :1]], dim=1)
        following[row, batch.lengths - 1] = verdict.tokens[:, 0].clamp(min=0)
        counts = batch.lengths.clone()

        while True:
            kept = self._record(batch, verdict, alive, done)
            if not len(kept):
                return done
            if len(kept) < len(alive):
                alive, batch = alive[kept.cpu()], batch.select(kept)
                hidden, following, positions, counts = (
                    t[kept] for t in (hidden, following, positions, counts)
                )
                cache.keep(kept)
                states.keep(kept)
                if self.drafter is not None:
                    self.drafter.keep(kept)
            drafts, probs = self._draft(batch, hidden, following, positions, counts)
            tokens = torch.cat([batch.last[:, None], drafts.clamp(min=0)], dim=1)
            start = batch.lengths + batch.emitted - 1
            positions = start[:, None] + torch.arange(tokens.shape[1], device=self.device)
            with states.attached(torch.full_like(start, tokens.shape[1])):
                hidden = self._forward(tokens, positions, cache)
            verdict = self._judge(batch, hidden, drafts, probs)
            following, counts = verdict.tokens.clamp(min=0), verdict.lengths
            cache.lengths = start + counts
            states.settle(counts)

    # -- a round ----------------------------------------------------------------------------------------------

    def _draft(
        self, batch: _Batch, hidden: Tensor, following: Tensor, positions: Tensor, counts: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Drafts [rows, γ] and the very distributions they were drawn from [rows, γ, vocab]."""
        rows = len(batch.last)
        if self.drafter is None:
            return batch.last.new_zeros(rows, 0), None
        uniforms = self._uniforms(batch, "draft", self.gamma)
        drafts, probs = [], []

        def pick(step: int, logits: Tensor) -> Tensor:
            q, valid = processed(logits, batch.params, vocab=self.vocab)
            # Target-only accepts p of the draft, however that was chosen.
            best = self.rule == "target_only"
            token = q.argmax(-1).where(valid, -1) if best else sample(q, uniforms[:, step])
            drafts.append(token)
            probs.append(q)
            return token.clamp(min=0)

        self.drafter.propose(hidden, following, positions, counts, self.gamma, pick)
        return torch.stack(drafts, dim=1), torch.stack(probs, dim=1)

    def _judge(
        self, batch: _Batch, hidden: Tensor, drafts: Tensor | None, probs: Tensor | None
    ) -> Verification:
        target = processed(self.head(hidden), batch.params, vocab=self.vocab).probs
        steps = hidden.shape[1] - 1
        if drafts is None or not steps:
            drafts = batch.last.new_zeros(len(batch.last), 0)
            probs = target[:, :0]
        remaining = batch.limits - batch.emitted
        return verify(
            drafts,
            target,
            probs,
            rule=self.rule,
            accept=self._uniforms(batch, "accept", steps),
            residual=self._uniforms(batch, "residual", steps + 1),
            counts=torch.minimum(remaining - 1, torch.full_like(remaining, steps)),
            remaining=remaining,
            eos=self.eos,
        )

    def _record(self, batch: _Batch, verdict: Verification, alive: Tensor, done: list[Completion]) -> Tensor:
        """Record what was emitted, and return the rows that are not done."""
        lengths, tokens, logprobs = (
            verdict.lengths.tolist(),
            verdict.tokens.tolist(),
            verdict.logprobs.tolist(),
        )
        accepted, steps = verdict.accepted.tolist(), verdict.tokens.shape[1] - 1
        left = (batch.limits - batch.emitted).tolist()
        finished, valid = verdict.finished.tolist(), verdict.valid.tolist()
        for row, request in enumerate(alive.tolist()):
            completion, count = done[request], lengths[row]
            completion.tokens += tokens[row][:count]
            completion.logprobs += logprobs[row][:count]
            for step in range(min(steps, left[row] - 1)):
                completion.drafted[step] += 1
                completion.accepted[step] += accepted[row] > step
            if finished[row]:
                ended = count and tokens[row][count - 1] in self.eos
                completion.finish = "stop" if ended else "length"
            elif not valid[row]:
                completion.finish = "invalid"
        last = verdict.tokens.gather(1, (verdict.lengths - 1).clamp(min=0)[:, None])[:, 0]
        batch.emitted = batch.emitted + verdict.lengths
        batch.last = last.clamp(min=0)
        return (~verdict.finished & verdict.valid).nonzero()[:, 0]

    def _uniforms(self, batch: _Batch, purpose: Literal["draft", "accept", "residual"], steps: int) -> Tensor:
        return batch.streams.uniforms(purpose, batch.emitted, steps, per_round=self.rule == "block")

    def _forward(self, tokens: Tensor, positions: Tensor, cache: RaggedCache) -> Tensor:
        """Last states [rows, n, width], after the final norm."""
        cache.place(positions)
        # Drafts behind a request's limit never count; they may stand on any position that the model has.
        places = positions if self.longest is None else positions.clamp(max=self.longest - 1)
        out: Tensor = self.base(
            input_ids=tokens, position_ids=places, past_key_values=cache, use_cache=True
        ).last_hidden_state
        return out

    # -- checks -----------------------------------------------------------------------------------------------

    def _check(self, requests: Sequence[Request]) -> None:
        vocab, longest = self.vocab or self.head.weight.shape[0], self.longest
        for number, request in enumerate(requests):
            where = f"request {number}"
            if not len(request.prompt):
                raise DataError("the prompt is empty", where=where, mend="give at least one token")
            if not all(0 <= token < vocab for token in request.prompt):
                raise DataError(
                    f"a token is outside the vocabulary of {vocab}",
                    where=where,
                    mend="use the model's tokenizer",
                )
            total = len(request.prompt) + max(0, request.max_new_tokens)
            if longest is not None and total > longest:
                raise DataError(
                    f"prompt and new tokens make {total} positions, the model holds {longest} of every batch",
                    where=where,
                    mend="shorten the prompt or lower max_new_tokens",
                )

    @torch.no_grad()
    def _try(self) -> None:
        """Whether rows of unequal length, and tokens that are taken back, leave each row's states what they are alone.

        Raises:
            ModelError: they do not, so that what is decoded would not be by the model's law.
        """
        tokens, kept = trial_tokens(self.model, 18).view(2, 9), torch.tensor([2, 1], device=self.device)
        lengths = torch.tensor([5, 3], device=self.device)

        def check() -> bool:
            cache, states = RaggedCache(2, 12, device=self.device), RecurrentStates(self._linear, 2)
            found: list[list[Tensor]] = [[], []]
            start, count = torch.zeros_like(lengths), lengths
            for width in (5, 3, 2):
                positions = start[:, None] + torch.arange(width, device=self.device)
                given = tokens.gather(1, positions.clamp(max=8))
                with states.attached(count if width == 5 else torch.full_like(count, width)):
                    hidden = self._forward(given, positions, cache)
                if width != 5:
                    states.settle(count)
                for row, n in enumerate(count.tolist()):
                    found[row].append(hidden[row, :n])
                start, count = start + count, kept
                cache.lengths = start
            whole = [self.base(input_ids=row[None], use_cache=False).last_hidden_state[0] for row in tokens]
            return all(close(part := torch.cat(f), w[: len(part)]) for f, w in zip(found, whole, strict=True))

        refuse_unless(
            check,
            self.model,
            "its states depend on what else is in the batch, or on drafts that were refused",
            "decode this model without drafts, in transformers",
        )


@dataclass
class _Batch:
    """The requests that are not done yet, as tensors over rows."""

    prompts: Tensor
    lengths: Tensor
    limits: Tensor
    emitted: Tensor
    last: Tensor
    params: list[SamplingParams]
    streams: Streams

    @classmethod
    def of(cls, requests: Sequence[Request], device: torch.device) -> _Batch:
        lengths = torch.tensor([len(r.prompt) for r in requests], device=device)
        prompts = torch.zeros(len(requests), int(lengths.max()), dtype=torch.long, device=device)
        for row, request in enumerate(requests):
            prompts[row, : len(request.prompt)] = torch.tensor(list(request.prompt), device=device)
        return cls(
            prompts,
            lengths,
            torch.tensor([r.max_new_tokens for r in requests], device=device),
            torch.zeros_like(lengths),
            torch.zeros_like(lengths),
            [r.params for r in requests],
            Streams.of([r.seed for r in requests], device),
        )

    def select(self, rows: Tensor) -> _Batch:
        tensors = ("prompts", "lengths", "limits", "emitted", "last")
        return replace(
            self,
            **{name: getattr(self, name)[rows] for name in tensors},
            params=[self.params[row] for row in rows.tolist()],
            streams=self.streams.select(rows),
        )


def _check_attention(model: Any) -> None:
    """Refuse attention that takes no mask, such as flash attention."""
    implementation = model.config.get_text_config()._attn_implementation
    if implementation not in ATTENTIONS:
        raise ModelError(
            f"attention by {implementation} takes no mask of each row",
            where=type(model).__name__,
            mend=f"load it with attn_implementation={ATTENTIONS[-1]!r}",
        )


def _end_tokens(model: Any) -> list[int]:
    """End tokens as `generate` has them; those of chat turns are in the generation configuration alone."""
    for config in (getattr(model, "generation_config", None), model.config.get_text_config()):
        eos = getattr(config, "eos_token_id", None)
        if eos is not None:
            return [eos] if isinstance(eos, int) else list(eos)
    return []
