"""The multi-token-prediction head of a Hugging Face model: one layer used again and again, or a layer for each step.

A head owns norms, projections and decoder layers of the backbone's own class. Embedding, rotary positions and LM head
are the backbone's, which is never trained here.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from noria.core.errors import ConfigError, ModelError
from noria.mtp.heads.backbone import (
    check_output_layer,
    decoder_of,
    most_positions,
    refuse_unless,
    trial_tokens,
)
from noria.mtp.heads.chain import ATTENTION, ChainCache, shifted
from noria.mtp.heads.layouts import Layout, layout_of
from noria.mtp.types import MAX_GAMMA, ChainAttention


class _Parts(nn.Module):
    """Norms and projection around a decoder layer."""

    def __init__(self, norm: type[nn.Module], width: int, eps: float) -> None:
        super().__init__()
        self.embedding_norm = norm(width, eps=eps)
        self.hidden_norm = norm(width, eps=eps)
        self.projection = nn.Linear(2 * width, width, bias=False)
        self.final_norm = norm(width, eps=eps)


class MTPHead(nn.Module):
    """A head over a frozen backbone.

    Args:
        backbone: a Hugging Face causal language model.
        layout: the vendor's convention; the model family's own by default.
        layers: decoder layers of the head. One is used for every step; of several each has its own step.

    Raises:
        ModelError: the backbone is not built of decoder layers with a final norm, or its logits are not its output
            layer's alone.
        ConfigError: fewer than one layer.
    """

    embedding: nn.Module
    rotary: nn.Module | None
    output: nn.Module

    def __init__(self, backbone: Any, *, layout: Layout | None = None, layers: int = 1) -> None:
        super().__init__()
        if layers < 1:
            raise ConfigError(f"a head of {layers} layers", where="layers", mend="give at least 1")
        base = decoder_of(backbone)
        if getattr(base, "norm", None) is None or not getattr(base, "layers", None):
            raise ModelError(
                "its decoder has no layers with a final norm",
                where=type(backbone).__name__,
                mend="give a model of the Llama, Qwen, DeepSeek, GLM or MiMo kind",
            )
        check_output_layer(backbone)
        self.layout = layout or layout_of(backbone.config)
        self.depth: int = backbone.config.get_text_config().num_hidden_layers
        self.longest = most_positions(backbone.config)
        refuse_unless(
            lambda: self._build(backbone, layers),
            backbone,
            "its decoder layers do not serve as a head's",
            "give a model of the Llama, Qwen, DeepSeek, GLM or MiMo kind",
        )

    def _build(self, backbone: Any, layers: int) -> bool:
        """Make the parts of the head and try a step of it."""
        base = decoder_of(backbone)
        block, self.kind = _attention_layer(base)
        self.config = text = _block_config(backbone.config, self.kind)
        norm = type(base.norm)
        self.blocks = nn.ModuleList(type(block)(text, 0) for _ in range(layers))
        around = 1 if self.layout.shared else layers
        eps = getattr(text, "rms_norm_eps", 1e-6)
        self.parts = nn.ModuleList(_Parts(norm, text.hidden_size, eps) for _ in range(around))
        self.attach(backbone)
        self.to(dtype=next(base.parameters()).dtype)
        # What the model keeps wide, such as the bias that balances experts, the head keeps wide.
        kinds = {name: t.dtype for name, t in _named(block) if t.is_floating_point()}
        for own in self.blocks:
            for name, t in _named(own):
                if t.is_floating_point():
                    t.data = t.data.to(kinds.get(name, t.dtype))
        tokens = trial_tokens(backbone, 3)[None]
        with torch.no_grad():
            states: Tensor = self(self.embedding(tokens), tokens, steps=1)
        return states.shape == (1, 3, 1, text.hidden_size)

    def attach(self, backbone: Any) -> MTPHead:
        """Read this model's embedding, rotary positions and output layer from now on, where it is; the head itself.

        A head that reads another copy of its model, one that is not trained along, drafts ever worse and says nothing.

        Raises:
            ModelError: the model is of another width.
        """
        base = decoder_of(backbone)
        width = base.config.get_text_config().hidden_size
        if width != self.config.hidden_size:
            raise ModelError(
                f"a head of width {self.config.hidden_size} for a model of width {width}",
                where=type(backbone).__name__,
                mend="it is another model's head",
            )
        # Not submodules: the backbone's weights are neither the head's parameters nor saved with it.
        self.__dict__.update(embedding=base.get_input_embeddings(), rotary=getattr(base, "rotary_emb", None))
        self.__dict__.update(output=backbone.get_output_embeddings())
        self.to(device=next(base.parameters()).device)
        return self

    @classmethod
    def fresh(cls, backbone: Any, *, layout: Layout | None = None, layers: int = 1, seed: int = 0) -> MTPHead:
        """A head to start training from: decoder layers as the backbone's last one, the projection at random.

        The projection starts as half the sum of its two inputs plus noise, so that the first state is close to one the
        copied layer has seen.

        Args:
            backbone: the model that the head drafts for.
            layout: layout of the head; the model family's own by default.
            layers: number of layers.
            seed: seed of the random numbers.
        """
        head = cls(backbone, layout=layout, layers=layers)
        last, _ = _attention_layer(decoder_of(backbone))
        width = head.config.hidden_size
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for block in head.blocks:
                block.apply(backbone._init_weights)
                source, goal = last.state_dict(), block.state_dict()
                if all(n in source and source[n].shape == t.shape for n, t in goal.items()):
                    block.load_state_dict(source)
            for part in head.around:
                for norm in (part.embedding_norm, part.hidden_norm, part.final_norm):
                    backbone._init_weights(norm)
                weight = part.projection.weight
                noise = torch.randn(weight.shape, generator=generator) * 0.5 * width**-0.5
                both = torch.cat([torch.eye(width), torch.eye(width)], 1) * 0.5
                weight.copy_(noise + both)
            for part in head.around:
                part.final_norm.load_state_dict(decoder_of(backbone).norm.state_dict())
        return head

    @property
    def layers(self) -> int:
        """Decoder layers of the head."""
        return len(self.blocks)

    @property
    def around(self) -> list[_Parts]:
        """Norms and projection of each layer, or the ones that all layers share."""
        return [part for part in self.parts if isinstance(part, _Parts)]

    @property
    def recursive(self) -> bool:
        """One layer serves every step."""
        return self.layers == 1

    @property
    def most_drafts(self) -> int:
        """Number of drafts that the head can make in a round."""
        return MAX_GAMMA if self.recursive else self.layers

    def forward(
        self,
        hidden: Tensor,
        tokens: Tensor,
        *,
        steps: int,
        segments: Tensor | None = None,
        positions: Tensor | None = None,
        chain_attention: ChainAttention | None = None,
    ) -> Tensor:
        """All steps of the chains of all roots, forced along the tokens.

        Args:
            hidden: the backbone's states after its final norm [rows, n, width].
            tokens: y [rows, n].
            steps: number of steps of each chain.
            segments: number of each token's document [rows, n]; all one by default.
            positions: places of the tokens in their documents [rows, n]; counted from 0 by default.
            chain_attention: attention along a chain, from :func:`chain_attention_of`.

        Returns:
            The states that the LM head reads [rows, n, steps, width]; gradients flow back through the chain.

        Raises:
            ConfigError: more steps than a head of several layers has, or `ttt` for such a head.
        """
        attention = chain_attention_of(self, steps, chain_attention)
        segments = torch.zeros_like(tokens) if segments is None else segments
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        cache = ChainCache() if attention == "ttt" else None
        states, state = [], hidden
        for step in range(steps):
            embedding = self.embedding(shifted(tokens, step + 1))
            if self.layout.zero_first and step == 0:
                embedding = embedding.masked_fill((positions == 0)[..., None], 0.0)
            state, normed = self.advance(step, embedding, state, positions + step, segments, cache)
            states.append(normed)
        return torch.stack(states, dim=2)

    def advance(
        self, step: int, embedding: Tensor, state: Tensor, positions: Tensor, mask: Tensor | None, cache: Any
    ) -> tuple[Tensor, Tensor]:
        """One step, from 0, of one layer.

        Args:
            step: which.
            embedding: embeddings of the tokens read [rows, n, width].
            state: states of the step before [rows, n, width].
            positions: for the rotary embedding [rows, n].
            mask: the segments of a forced chain [rows, n], or a mask as attention takes it.
            cache: keys and values, or None.

        Returns:
            The state for the next step, and the one for the LM head, [rows, n, width] each.
        """
        layer = 0 if self.recursive else step
        part, block = self.around[min(layer, len(self.parts) - 1)], self.blocks[layer]
        pair = (part.embedding_norm(embedding), part.hidden_norm(state))
        joined = part.projection(torch.cat(pair if self.layout.embedding_first else pair[::-1], dim=-1))
        out = block(
            joined,
            attention_mask=mask,
            position_embeddings=self._rotated(joined, positions),
            position_ids=positions,
            past_key_values=cache,
        )
        out = out[0] if isinstance(out, tuple) else out
        normed = part.final_norm(out)
        return (normed if self.layout.normed else out), normed

    def _rotated(self, like: Tensor, positions: Tensor) -> Any:
        """The backbone's rotary positions, of the kind of layer that the head is made of."""
        if self.rotary is None:
            return None
        if self.longest is not None:  # what lies behind never counts
            positions = positions.clamp(max=self.longest - 1)
        if self.kind is not None and "layer_type" in inspect.signature(self.rotary.forward).parameters:
            return self.rotary(like, positions, layer_type=self.kind)
        return self.rotary(like, positions)


def chain_attention_of(head: MTPHead, steps: int, wanted: ChainAttention | None = None) -> ChainAttention:
    """Choose what each step attends to: `ttt` for one layer used again, `parallel` for several, as each drafts.

    Raises:
        ConfigError: more steps than a head of several layers has, or `ttt` for such a head.
    """
    if not head.recursive and steps > head.layers:
        raise ConfigError(
            f"{steps} steps of a head with {head.layers} layers",
            where="steps",
            mend=f"use at most {head.layers}, or a head of one layer",
        )
    if not head.recursive and wanted == "ttt":
        raise ConfigError(
            "ttt is for a head of one layer",
            where="chain_attention",
            mend="several layers draft as parallel says",
        )
    return wanted or ("ttt" if head.recursive else "parallel")


def _named(block: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers."""
    yield from block.named_parameters()
    yield from block.named_buffers()


def _attention_layer(base: Any) -> tuple[nn.Module, str | None]:
    """The decoder's last layer with full attention, else with any: in hybrid models not all have it; and its kind."""
    kinds = getattr(base.config.get_text_config(), "layer_types", None)
    if not kinds:
        return base.layers[-1], None
    for wanted in ("full_attention", "sliding_attention"):
        for kind, layer in zip(reversed(kinds), reversed(base.layers), strict=True):
            if kind == wanted:
                return layer, kind
    raise ModelError("no layer has attention", where=type(base).__name__)


def _block_config(config: Any, kind: str | None) -> Any:
    """The backbone's configuration, as of a model of one attention layer; experts wherever the vendor has them."""
    text = copy.deepcopy(config.get_text_config())
    text.num_hidden_layers = 1
    if kind is not None:
        text.layer_types = [kind]
    if getattr(text, "mlp_layer_types", None):
        text.mlp_layer_types = [text.mlp_layer_types[-1]]
    if hasattr(text, "first_k_dense_replace"):
        text.first_k_dense_replace = 0
    text._attn_implementation = ATTENTION
    return text
