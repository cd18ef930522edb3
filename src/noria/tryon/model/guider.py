"""The Interaction Guider: hands as tokens that are added to those of the video.

The paper has convolutions and self-attention, added to the tokens; layers and widths are reconstructed.
"""

from __future__ import annotations

import torch
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from torch import Tensor, nn

from noria.tryon.attention.rotary import rotate


class HandAttention(nn.Module):
    """Self-attention and a feed-forward layer over the tokens of one latent frame `[frames, tokens, dim]`."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attn_norm, self.ffn_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.ffn = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(approximate="tanh"), nn.Linear(4 * dim, dim)
        )

    def forward(self, tokens: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Tokens of the same shape; the angles are those of the places in the frame."""
        query, key, value = self.qkv(self.attn_norm(tokens)).unflatten(2, (3, self.heads, -1)).unbind(2)
        query, key = rotate(query, cosine, sine), rotate(key, cosine, sine)
        mixed = nn.functional.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        )
        tokens = tokens + self.out(mixed.transpose(1, 2).flatten(2))
        return tokens + self.ffn(self.ffn_norm(tokens))  # type: ignore[no-any-return]


class InteractionGuider(nn.Module):
    """Hand latents `[batch, channels, frames, height, width]` to tokens for each place of injection.

    Does not depend on the time step, so a clip needs it once. The last layers start at zero: before training, hands
    change nothing.
    """

    def __init__(
        self, channels: int, dim: int, layers: int, inner_dim: int, patch: tuple[int, int, int], places: int
    ):
        super().__init__()
        heads = max(1, dim // 64)
        self.embed = nn.Sequential(
            nn.Conv3d(channels, dim, 3, padding=1),
            nn.SiLU(),
            nn.Conv3d(dim, dim, 3, padding=1),
            nn.SiLU(),
            nn.Conv3d(dim, dim, patch, stride=patch),
        )
        self.rope = WanRotaryPosEmbed(dim // heads, patch, 1024)
        self.layers = nn.ModuleList(HandAttention(dim, heads) for _ in range(layers))
        self.project = nn.ModuleList(nn.Linear(dim, inner_dim) for _ in range(places))
        self.silence()

    def silence(self) -> None:
        """Set the last layers to zero."""
        for layer in self.project:
            assert isinstance(layer, nn.Linear)
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, hands: Tensor, references: int = 0) -> list[Tensor]:
        """Tokens for each place of injection; those of the leading reference frames are zero."""
        cosine, sine = self.rope(hands[:, :, :1])  # one frame: positions in space only
        grid = self.embed(hands)
        batch, _, frames, height, width = grid.shape
        tokens = grid.permute(0, 2, 3, 4, 1).reshape(batch * frames, height * width, -1)
        for layer in self.layers:
            tokens = layer(tokens, cosine[..., 0::2], sine[..., 1::2])
        tokens = tokens.reshape(batch, frames * height * width, -1)
        placed = [layer(tokens) for layer in self.project]
        lead = references * height * width
        return [torch.nn.functional.pad(part, (0, 0, lead, 0)) for part in placed]
