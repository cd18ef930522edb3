"""A head as a drafter: the same chain as in training, one round after another, over a cache of its own.

One layer used again keeps the first step's keys of committed tokens; a chain's own keys stand behind them until the
next round's tokens take their places. Of several layers each has a cache over all roots, and goes back over the last
ones where the tokens that they had been given were drafts that were then refused.
"""

from __future__ import annotations

import torch
from torch import Tensor

from noria.mtp.decoding.cache import RaggedCache
from noria.mtp.decoding.decoder import Pick
from noria.mtp.heads.head import MTPHead, chain_attention_of


class HeadDrafter:
    """Drafts with a multi-token-prediction head; see `noria.mtp.decoding.decoder.Drafter`."""

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
        width = head.config.hidden_size
        self._saved = [like.new_zeros(rows, layer + 1, width) for layer in range(head.layers - 1)]

    def keep(self, rows: Tensor) -> None:
        """Keep these rows only."""
        for cache in self._caches:
            cache.keep(rows)
        self._saved = [state[rows] for state in self._saved]

    def propose(
        self, hidden: Tensor, tokens: Tensor, positions: Tensor, counts: Tensor, gamma: int, pick: Pick
    ) -> None:
        """Draft `gamma` tokens behind what was committed; see `noria.mtp.decoding.decoder.Drafter`.

        Raises:
            ConfigError: `gamma` is more than a head of several layers has.
        """
        chain_attention_of(self.head, gamma)
        most = int(counts.max())  # what lies behind is real in no row
        hidden, tokens, positions = hidden[:, :most], tokens[:, :most], positions[:, :most]
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

        Where m drafts were accepted, it had refused ones for tokens at the last i − m roots, if i > m: its window
        begins as many roots before the new ones. Roots before the first position stand in the cache's first slots and
        are never seen.
        """
        head = self.head
        rows, n = tokens.shape
        row = torch.arange(rows, device=tokens.device)
        sound = int(counts.min()) - 1  # m of the row that has to go back furthest
        known = torch.cat([tokens, tokens.new_zeros(rows, gamma)], dim=1)
        state, saved = hidden, []
        for layer in range(gamma):
            back = max(0, layer - sound)
            roots = positions[:, :1] - back + torch.arange(n + back, device=tokens.device)
            read = known[:, layer - back : n + layer]
            embedding = self._first(read, roots) if layer == 0 else head.embedding(read)
            state, normed = self._run(layer, embedding, state, roots + layer, roots + head.layers - 1)
            newest = counts - 1 + back  # the column of the last committed root
            token = pick(layer, head.output(normed[row, newest]))
            if layer + 1 < gamma:
                known[row, counts + layer] = token
                # Which of the last roots' states read committed tokens alone, the next round will tell.
                last = newest[:, None] + torch.arange(-layer, 1, device=tokens.device)
                saved.append(state[row[:, None], last])
                if layer + 1 > sound:
                    state = torch.cat([self._saved[layer][:, sound][:, None], state], dim=1)
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
        mask = cache.visible()
        mask[..., : self.head.layers - 1] = False
        return self.head.advance(step, embedding, state, rotary, mask, cache)
