"""A head as a drafter: the same chain as in training, one round after another, over a cache of its own.

One layer used again keeps the first step's keys of committed tokens; a chain's own keys stand behind them until the
next round's tokens take their places. Of several layers each has a cache over all roots, and goes back over the last
ones whenever the tokens that they had been given were drafts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from noria.mtp.cache import RaggedCache
from noria.mtp.decoder import Pick
from noria.mtp.heads import MTPHead, chain_attention_of

__all__ = ["HeadDrafter"]


class HeadDrafter:
    """Drafts with a multi-token-prediction head; see `noria.mtp.decoder.Drafter`."""

    def __init__(self, head: MTPHead) -> None:
        self.head = head.eval()
        self._caches: list[RaggedCache] = []
        self._saved: list[Tensor] = []

    def begin(self, rows: int, capacity: int) -> None:
        """Forget everything; `rows` requests of up to `capacity` positions follow."""
        head = self.head
        like = head.around[0].projection.weight
        room = capacity + 2 * head.layers
        self._caches = [RaggedCache(rows, room, device=like.device) for _ in head.blocks]
        self._saved = [like.new_zeros(rows, 1, head.config.hidden_size) for _ in range(head.layers - 1)]

    def keep(self, rows: Tensor) -> None:
        """Only these rows go on."""
        for cache in self._caches:
            cache.keep(rows)
        self._saved = [state[rows] for state in self._saved]

    def propose(
        self, hidden: Tensor, tokens: Tensor, positions: Tensor, counts: Tensor, gamma: int, pick: Pick
    ) -> None:
        """Draft `gamma` tokens behind what was committed; see `noria.mtp.decoder.Drafter`.

        Raises:
            ConfigError: `gamma` is more than a head of several layers has.
        """
        chain_attention_of(self.head, gamma)
        if self.head.recursive:
            self._again(hidden, tokens, positions, counts, gamma, pick)
        else:
            self._each(hidden, tokens, positions, counts, gamma, pick)

    def _again(
        self, hidden: Tensor, tokens: Tensor, positions: Tensor, counts: Tensor, gamma: int, pick: Pick
    ) -> None:
        head, cache = self.head, self._caches[0]
        row = torch.arange(len(tokens), device=tokens.device)
        embedding = self._first(tokens, positions)
        state, normed = self._run(0, embedding, hidden, positions, positions)
        last = counts - 1
        state, normed, at = state[row, last][:, None], normed[row, last], positions[row, last][:, None]
        for step in range(gamma):
            token = pick(step, head.output(normed))
            if step + 1 < gamma:
                at = at + 1
                state, after = self._run(step + 1, head.embedding(token[:, None]), state, at, at)
                normed = after[:, 0]
        cache.lengths = positions[row, last] + 1

    def _each(
        self, hidden: Tensor, tokens: Tensor, positions: Tensor, counts: Tensor, gamma: int, pick: Pick
    ) -> None:
        """Layer i (from 0) takes root t with token t + 1 + i.

        Its window begins i roots before the new ones, as those had drafts for tokens. Roots before the first position
        stand in the cache's first slots and are never seen.
        """
        head = self.head
        rows, n = tokens.shape
        row = torch.arange(rows, device=tokens.device)
        lead = head.layers - 1
        known = torch.cat([tokens, tokens.new_zeros(rows, gamma)], dim=1)
        state, saved = hidden, []
        for layer in range(gamma):
            roots = positions[:, :1] - layer + torch.arange(n + layer, device=tokens.device)
            read = known[:, : n + layer]
            embedding = self._first(read, roots) if layer == 0 else head.embedding(read)
            state, normed = self._run(layer, embedding, state, roots + layer, roots + lead)
            newest = counts - 1 + layer  # the column of the last committed root
            token = pick(layer, head.output(normed[row, newest]))
            if layer + 1 < gamma:
                known[row, counts + layer] = token
                saved.append(state[row, newest - layer][:, None])  # read a committed token, so it stays
                state = torch.cat([self._saved[layer], state], dim=1)
        self._saved = saved

    def _first(self, tokens: Tensor, positions: Tensor) -> Tensor:
        embedding: Tensor = self.head.embedding(tokens)
        if self.head.layout.zero_first:
            embedding = embedding.masked_fill((positions == 0)[..., None], 0.0)
        return embedding

    def _run(
        self, step: int, embedding: Tensor, state: Tensor, rotary: Tensor, slots: Tensor
    ) -> tuple[Tensor, Tensor]:
        cache = self._caches[0 if self.head.recursive else step]
        cache.place(slots)
        mask = cache.masks(state.dtype)["full_attention"]
        if mask is not None and (unseen := self.head.layers - 1):
            mask[..., :unseen] = torch.finfo(mask.dtype).min
        return self.head.advance(step, embedding, state, rotary, mask, cache)
