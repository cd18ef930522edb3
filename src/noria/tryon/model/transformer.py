"""Wan-VACE with timed actions and hands: `ITryOnTransformer3DModel`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.transformers.transformer_wan_vace import WanVACETransformer3DModel
from diffusers.utils import apply_lora_scale
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from noria.core.errors import CheckpointError, ConfigError
from noria.tryon.attention.rotary import rotary_angles
from noria.tryon.attention.segments import relay_penalty
from noria.tryon.model.attention import ActionAttnProcessor, Captions, folded
from noria.tryon.model.guider import InteractionGuider

MODES = ("rope", "mask", "relay", "none")


class ITryOnTransformer3DModel(WanVACETransformer3DModel):  # type: ignore[misc]
    """diffusers' Wan-VACE transformer, whose checkpoints it loads with only the new keys missing.

    Without actions and hands its output is the stock model's, bit by bit.

    Args:
        arope_scale: distance k between neighbouring segments (paper: 4).
        arope_theta: base of the rotary frequencies.
        arope_context: `decoupled`: actions are read by an attention of their own with the same projections, added
            with a gate that starts at zero; `joint`: one attention over all captions (the paper's words fit it best).
        arope_mode: `rope`, or for studies `mask` (a frame sees its own action only), `relay` (a penalty that grows
            with the distance from the segment's middle) and `none` (a bag of captions).
        hand_in_channels: channels of the hand latents: 16 of the autoencoder and 1 of validity.
        guider_dim, guider_layers: width and attention layers of the Interaction Guider.
        guider_inject: layers before which the hands' tokens are added; 0 is right after the patch embedding.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        patch_size: tuple[int, ...] = (1, 2, 2),
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 16,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        cross_attn_norm: bool = True,
        qk_norm: str | None = "rms_norm_across_heads",
        eps: float = 1e-6,
        image_dim: int | None = None,
        added_kv_proj_dim: int | None = None,
        rope_max_seq_len: int = 1024,
        pos_embed_seq_len: int | None = None,
        vace_layers: Sequence[int] = (0, 5, 10, 15, 20, 25, 30, 35),
        vace_in_channels: int = 96,
        arope_scale: float = 4.0,
        arope_theta: float = 1e4,
        arope_index: str = "anchored",
        arope_context: str = "decoupled",
        arope_mode: str = "rope",
        hand_in_channels: int = 17,
        guider_dim: int = 256,
        guider_layers: int = 2,
        guider_inject: Sequence[int] = (0,),
    ) -> None:
        _check(
            arope_index, arope_context, arope_mode, guider_dim, guider_inject, num_layers, added_kv_proj_dim
        )
        super().__init__(
            patch_size=patch_size,
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            in_channels=in_channels,
            out_channels=out_channels,
            text_dim=text_dim,
            freq_dim=freq_dim,
            ffn_dim=ffn_dim,
            num_layers=num_layers,
            cross_attn_norm=cross_attn_norm,
            qk_norm=qk_norm,
            eps=eps,
            image_dim=image_dim,
            added_kv_proj_dim=added_kv_proj_dim,
            rope_max_seq_len=rope_max_seq_len,
            pos_embed_seq_len=pos_embed_seq_len,
            vace_layers=list(vace_layers),
            vace_in_channels=vace_in_channels,
        )
        inner = num_attention_heads * attention_head_dim
        for block in [*self.blocks, *self.vace_blocks]:
            block.attn2.set_processor(ActionAttnProcessor(arope_context))
            if arope_context == "decoupled":
                block.attn2.action_gate = nn.Parameter(torch.zeros(1))
                block.attn2.action_sink = nn.Parameter(torch.zeros(inner))
        patch = (patch_size[0], patch_size[1], patch_size[2])
        self.guider = InteractionGuider(
            hand_in_channels, guider_dim, guider_layers, inner, patch, len(guider_inject)
        )

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a checkpoint of this class or of the stock model, whose outputs new weights leave as they are.

        Raises:
            CheckpointError: the checkpoint lacks weights of the stock model, or a part of the new ones.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        _start_missing(model, set(info["missing_keys"]), where=str(args[0]) if args else None)
        return (model, info) if wants_info else model

    @apply_forward_hook  # type: ignore[untyped-decorator]
    def encode_hands(self, hands: Tensor, references: int = 0) -> list[Tensor]:
        """Tokens of the hands, once a clip: they do not depend on the time step.

        Args:
            hands: hand latents and validity `[batch, hand_in_channels, frames, height, width]`.
            references: reference frames that lead the video's latents.
        """
        return self.guider(hands, references)  # type: ignore[no-any-return]

    @apply_lora_scale("attention_kwargs")  # type: ignore[untyped-decorator]
    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_image: Tensor | None = None,
        control_hidden_states: Tensor | None = None,
        control_hidden_states_scale: Tensor | None = None,
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
        action_hidden_states: Tensor | None = None,
        action_positions: Tensor | None = None,
        query_positions: Tensor | None = None,
        action_mask: Tensor | None = None,
        hand_tokens: Sequence[Tensor] | None = None,
        hand_scale: float | Tensor = 1.0,
    ) -> Any:
        """Predict the velocity; the arguments before `action_hidden_states` are the stock model's.

        Args:
            action_hidden_states: encoded captions of actions, one after the other `[batch, tokens, text_dim]`.
            action_positions: position of each of these tokens `[batch, tokens]`, before `arope_scale`.
            query_positions: position of each latent frame, reference frames included `[batch, frames]`.
            action_mask: False on padding tokens `[batch, tokens]`.
            hand_tokens: what `encode_hands` gave.
            hand_scale: factor of the hands' tokens, or one a sample `[batch]`.
        """
        assert control_hidden_states is not None
        if action_hidden_states is None and hand_tokens is None:
            return super().forward(
                hidden_states,
                timestep,
                encoder_hidden_states,
                encoder_hidden_states_image,
                control_hidden_states,
                control_hidden_states_scale,
                return_dict,
            )
        shape = hidden_states.shape
        if control_hidden_states.shape[2:] != shape[2:]:
            raise ValueError(f"control is {list(control_hidden_states.shape)}, the noise {list(shape)}")
        rotary = self.rope(hidden_states)
        tokens = self.patch_embedding(hidden_states).flatten(2).transpose(1, 2)
        control = self.vace_patch_embedding(control_hidden_states).flatten(2).transpose(1, 2)
        # As in the stock model, which pads it: another layout in memory would round otherwise in half precision.
        control = control.contiguous()
        temb, steps, text, _ = self.condition_embedder(timestep, encoder_hidden_states, None)
        steps = steps.unflatten(1, (6, -1))
        if action_hidden_states is not None:
            text = self._captions(
                text, action_hidden_states, action_positions, query_positions, action_mask, shape
            )
            # A backend that was set, such as a flash kernel, may take no bias.
            if (
                self.config.arope_context == "joint"
                and self.blocks[0].attn2.processor._attention_backend is None
            ):
                whole, bias = folded(text.whole, encoder_hidden_states)
                text = text._replace(whole=whole, whole_bias=bias)
        tokens = self._blocks(
            tokens,
            control,
            text,
            steps,
            rotary,
            control_hidden_states_scale,
            self._scaled(hand_tokens, hand_scale),
        )
        sample = self._unpatchify(tokens, temb, shape)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def _captions(
        self,
        text: Tensor,
        actions: Tensor,
        keys: Tensor | None,
        frames: Tensor | None,
        mask: Tensor | None,
        shape: torch.Size,
    ) -> Captions:
        """Both kinds of captions with the angles and the bias of the configured mode."""
        if keys is None or frames is None:
            raise ValueError("actions need action_positions and query_positions")
        config, (p_t, p_h, p_w) = self.config, self.config.patch_size
        number, space = shape[2] // p_t, (shape[3] // p_h) * (shape[4] // p_w)
        if frames.shape != (shape[0], number) or keys.shape != actions.shape[:2]:
            raise ValueError(
                f"positions are {list(frames.shape)} and {list(keys.shape)}, expected {[shape[0], number]} and "
                f"{list(actions.shape[:2])}"
            )
        actions = self.condition_embedder.text_embedder(actions)
        bias: Tensor | None = None
        if config.arope_mode == "mask":
            bias = torch.where(frames[:, :, None] == keys[:, None, :], 0.0, -torch.inf)
        elif config.arope_mode == "relay":
            bias = -relay_penalty(frames, keys)
        if bias is not None:
            bias = bias.repeat_interleave(space, dim=1)[:, None]
        if mask is not None and not bool(mask.all()):
            padding = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask.bool(), -torch.inf)
            bias = padding[:, None, None] if bias is None else bias + padding[:, None, None]
            if bias.shape[2] == 1:
                bias = bias.expand(-1, -1, number * space, -1)
        if config.arope_mode != "rope":
            return Captions(text, actions, None, None, bias)
        dim, theta, k = config.attention_head_dim, config.arope_theta, config.arope_scale
        cosine, sine = (
            part.repeat_interleave(space, dim=1) for part in rotary_angles(frames * k, dim, theta)
        )
        return Captions(text, actions, (cosine, sine), rotary_angles(keys * k, dim, theta), bias)

    def _scaled(self, hands: Sequence[Tensor] | None, scale: float | Tensor) -> dict[int, Tensor]:
        """The hands' tokens by the layer before which they are added."""
        if isinstance(scale, Tensor):
            scale = scale.reshape(-1, 1, 1)
        if hands is None:
            return {}
        places = zip(self.config.guider_inject, hands, strict=True)
        return {layer: part * scale for layer, part in places}

    def _blocks(
        self,
        tokens: Tensor,
        control: Tensor,
        text: Tensor | Captions,
        steps: Tensor,
        rotary: Any,
        scales: Tensor | None,
        hands: dict[int, Tensor],
    ) -> Tensor:
        """The VACE blocks, then the base blocks with the hints added, as in the stock model."""
        layers = list(self.config.vace_layers)
        scales = control.new_ones(len(layers)) if scales is None else scales
        if len(scales) != len(layers):
            raise ValueError(f"{len(scales)} scales of control for {len(layers)} VACE layers")

        def call(block: nn.Module, *args: Any) -> Any:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                return self._gradient_checkpointing_func(block, *args)
            return block(*args)

        if 0 in hands:
            tokens = tokens + hands[0].to(tokens)
        hints = {}
        for layer, scale, block in zip(layers, scales, self.vace_blocks, strict=True):
            hint, control = call(block, tokens, text, control, steps, rotary)
            hints[layer] = (hint, scale)
        for layer, block in enumerate(self.blocks):
            if layer in hands and layer > 0:
                tokens = tokens + hands[layer].to(tokens)
            tokens = call(block, tokens, text, steps, rotary)
            if layer in hints:
                hint, scale = hints[layer]
                tokens = tokens + hint.to(tokens.device) * scale
        return tokens

    def _unpatchify(self, tokens: Tensor, temb: Tensor, shape: torch.Size) -> Tensor:
        p_t, p_h, p_w = self.config.patch_size
        shift, scale = (self.scale_shift_table.to(temb.device) + temb.unsqueeze(1)).chunk(2, dim=1)
        shift, scale = shift.to(tokens.device), scale.to(tokens.device)
        tokens = self.proj_out((self.norm_out(tokens.float()) * (1 + scale) + shift).type_as(tokens))
        grid = tokens.reshape(shape[0], shape[2] // p_t, shape[3] // p_h, shape[4] // p_w, p_t, p_h, p_w, -1)
        return grid.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)


def _start_missing(model: ITryOnTransformer3DModel, missing: set[str], where: str | None) -> None:
    """Make the weights that a checkpoint lacks; diffusers leaves them on the meta device, without values."""
    mend = "load the transformer of a Wan-VACE model, or one that this class saved whole"
    like = model.patch_embedding.weight
    for name, module in model.named_modules():
        own = {f"{name}.{key}" for key, _ in module.named_parameters(recurse=False)}
        gone = own & missing
        if not gone:
            continue
        if name.endswith(".attn2") and all(key.endswith((".action_gate", ".action_sink")) for key in gone):
            for key in gone:
                old = model.get_parameter(key)
                fresh = nn.Parameter(torch.zeros(old.shape, dtype=like.dtype, device=like.device))
                setattr(module, key.rpartition(".")[2], fresh)
        elif name.startswith("guider.") and gone == own:
            module.to_empty(device=like.device, recurse=False).to(like.dtype)
            with torch.random.fork_rng(devices=[]):  # the same checkpoint is the same model at each start
                torch.manual_seed(0)
                module.reset_parameters()
        else:
            raise CheckpointError(f"{min(gone)} is not in the checkpoint", where=where, mend=mend)
    if any(key.startswith("guider.project.") for key in missing):
        model.guider.silence()


def _check(
    index: str, context: str, mode: str, guider: int, inject: Sequence[int], layers: int, added: int | None
) -> None:
    """Refuse settings that the model does not have.

    Raises:
        ConfigError: one of them.
    """
    for name, value, allowed in (
        ("arope_index", index, ("anchored", "paper")),
        ("arope_context", context, ("decoupled", "joint")),
        ("arope_mode", mode, MODES),
    ):
        if value not in allowed:
            raise ConfigError(f"{value!r} is none of {', '.join(allowed)}", where=name)
    if guider % max(1, guider // 64) or (guider // max(1, guider // 64)) % 2:
        raise ConfigError(
            f"{guider} is not an even width times {max(1, guider // 64)} heads", where="guider_dim"
        )
    if len(set(inject)) != len(inject) or not inject or not all(0 <= layer < layers for layer in inject):
        raise ConfigError(f"{list(inject)} are not different layers below {layers}", where="guider_inject")
    if added is not None:
        raise ConfigError(
            "image attention and timed actions do not go together",
            where="added_kv_proj_dim",
            mend="load a VACE model",
        )
