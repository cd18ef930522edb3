"""`ITryOnPipeline`: diffusers' Wan-VACE pipeline for batches, with timed actions, hands and guidance on actions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import WanVACEPipeline
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from noria.tryon.model.transformer import ITryOnTransformer3DModel
from noria.tryon.pipeline.captions import ActionTokens, encode_texts, pack_actions
from noria.tryon.pipeline.conditions import Conditions, control_latents, decode, hand_latents
from noria.tryon.pipeline.settings import SamplingConfig

WHOLE = 512
"""Tokens of the global caption, padded with zeros."""
OnStep = Callable[[int, int], None]


class ITryOnPipeline(WanVACEPipeline):  # type: ignore[misc]
    """diffusers' pipeline, with its loading, saving, LoRA, offload and tiling; the call takes `Conditions`."""

    @torch.no_grad()
    def __call__(
        self,
        given: Conditions,
        sampling: SamplingConfig | None = None,
        *,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Generate a batch of clips.

        Args:
            given: the clips, masks, garments, captions, actions and hands.
            sampling: settings of sampling; chunks, crop and blending are not for this call.
            generator: generator of the noise, or one for each clip.
            latents: noise to begin with `[batch, 16, references + latent frames, height/8, width/8]`.
            on_step: called with the number of each finished step and that of all steps.

        Returns:
            The videos in -1 .. 1, float32 `[batch, 3, frames, height, width]`.
        """
        sampling = sampling or SamplingConfig()
        device, model = self._execution_device, self.transformer or self.transformer_2
        control = control_latents(self.vae, given, device).to(device, model.dtype)
        texts = self._texts(given, sampling, device, model.dtype)
        actions = self._actions(given, model)
        hands = None
        if given.hands is not None and given.hands_where is not None and sampling.hand_scale:
            hands = hand_latents(self.vae, given.hands, given.hands_where, device).to(device, model.dtype)
        if latents is None:
            shape = (len(control), model.config.in_channels, *control.shape[2:])
            latents = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        latents = self._denoise(latents, control, texts, actions, hands, given.references, sampling, on_step)
        video = decode(self.vae, latents[:, :, given.references :])
        self.maybe_free_model_hooks()
        return video

    def _texts(
        self, given: Conditions, sampling: SamplingConfig, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor | None]:
        """Encoded captions, and the negative one where there is guidance, padded with zeros as Wan pads them."""

        def encoded(texts: Sequence[str]) -> Tensor:
            states = encode_texts(self.tokenizer, self.text_encoder, texts, WHOLE)
            padded = [torch.nn.functional.pad(state, (0, 0, 0, WHOLE - len(state))) for state in states]
            return torch.stack(padded).to(device, dtype)

        positive = encoded(given.prompts)
        if sampling.guidance <= 1:
            return positive, None
        return positive, encoded([sampling.negative]).expand(len(positive), -1, -1)

    def _actions(self, given: Conditions, model: ITryOnTransformer3DModel) -> ActionTokens | None:
        if given.segments is None or not any(clip.captions for clip in given.segments):
            return None
        captions = list(dict.fromkeys(text for clip in given.segments for text in clip.captions))
        joint = model.config.arope_context == "joint"
        states = encode_texts(self.tokenizer, self.text_encoder, [*captions, *([""] if joint else [])])
        known = dict(zip(captions, states, strict=False))
        encoded = [[known[text].to(model.dtype) for text in clip.captions] for clip in given.segments]
        empty = states[-1].to(model.dtype) if joint else None
        return pack_actions(encoded, given.segments, given.references, empty)

    def _denoise(
        self,
        latents: Tensor,
        control: Tensor,
        texts: tuple[Tensor, Tensor | None],
        actions: ActionTokens | None,
        hands: Tensor | None,
        references: int,
        sampling: SamplingConfig,
        on_step: OnStep | None,
    ) -> Tensor:
        self.scheduler.set_timesteps(sampling.steps, device=latents.device)
        timesteps = self.scheduler.timesteps
        guided = round(sampling.guided_share * len(timesteps))
        tokens: dict[int, Any] = {}  # of the hands, once for each of the two experts
        for step, t in enumerate(timesteps):
            model = self._expert(t)
            if hands is not None and id(model) not in tokens:
                tokens[id(model)] = model.encode_hands(hands, references)
            common = {
                "hidden_states": latents.to(model.dtype),
                "timestep": t.expand(len(latents)),
                "control_hidden_states": control,
                "control_hidden_states_scale": control.new_full(
                    (len(model.config.vace_layers),), sampling.control_scale
                ),
                "hand_tokens": tokens.get(id(model)),
                "hand_scale": sampling.hand_scale,
            }
            velocity = _guided(model, common, texts, actions, sampling, step < guided)
            latents = self.scheduler.step(velocity, t, latents, return_dict=False)[0]
            if on_step is not None:
                on_step(step + 1, len(timesteps))
        return latents

    def _expert(self, t: Tensor) -> ITryOnTransformer3DModel:
        """The model of a time step: Wan2.2 has one for high noise and one for low."""
        boundary = self.config.boundary_ratio
        if boundary is None:
            return self.transformer or self.transformer_2  # type: ignore[no-any-return]
        high = bool(t >= boundary * self.scheduler.config.num_train_timesteps)
        return self.transformer if high else self.transformer_2  # type: ignore[no-any-return]


def _guided(
    model: ITryOnTransformer3DModel,
    common: dict[str, Any],
    texts: tuple[Tensor, Tensor | None],
    actions: ActionTokens | None,
    sampling: SamplingConfig,
    guided: bool,
) -> Tensor:
    """`v = v_0 + w_g (v_g - v_0) + w_a (v_ga - v_g)`; with one weight for both, `v_0 + w_g (v_ga - v_0)`."""

    def call(text: Tensor, timed: ActionTokens | None, name: str) -> Tensor:
        extra = {} if timed is None else timed.arguments()
        with model.cache_context(name):
            result = model(**common, **extra, encoder_hidden_states=text, return_dict=False)[0]
        return result.float()  # type: ignore[no-any-return]

    positive, negative = texts
    full = call(positive, actions, "actions")
    if not guided:
        return full
    apart = actions is not None and sampling.action_guidance is not None
    caption = call(positive, None, "caption") if apart else full
    velocity = caption
    if negative is not None:
        nothing = call(negative, None, "nothing")
        velocity = nothing + sampling.guidance * (caption - nothing)
    if apart and sampling.action_guidance is not None:
        velocity = velocity + sampling.action_guidance * (full - caption)
    return velocity
