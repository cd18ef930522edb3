"""Which weights of a planner are trained: all of its language model, or LoRA adapters; the vision tower when asked."""

from __future__ import annotations

from typing import Any

from torch import nn

from noria.core.errors import ConfigError, require
from noria.editing.planner.policy import Policy
from noria.editing.planner.settings import TunedWeights

LORA_TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""Linear layers of the language model, by name; the vision tower's have other names or another parent."""


def prepare_weights(policy: Policy, settings: TunedWeights) -> dict[str, nn.Parameter]:
    """Freeze what is not trained, put adapters into the policy where asked, and return what is trained, by name.

    Raises:
        ConfigError: adapters together with a trained vision tower.
        MissingExtra: peft is not installed.
    """
    if settings.lora:
        if settings.train_vision:
            raise ConfigError(
                "adapters leave the vision tower alone", where="lora, train_vision", mend="choose one"
            )
        peft = require("peft", "editing")
        import torch

        with torch.random.fork_rng():  # the adapters' first weights depend on the seed alone
            torch.manual_seed(settings.seed)
            config = peft.LoraConfig(
                r=settings.lora, lora_alpha=2 * settings.lora, lora_dropout=0.0, target_modules=LORA_TARGETS
            )
            peft.inject_adapter_in_model(config, policy.model)
    for name, parameter in policy.model.named_parameters():
        adapter = "lora_" in name
        seen = "visual" in name.split(".")
        parameter.requires_grad_(adapter if settings.lora else settings.train_vision or not seen)
    if settings.gradient_checkpointing:
        policy.model.gradient_checkpointing_enable({"use_reentrant": False})
    return {name: p for name, p in policy.model.named_parameters() if p.requires_grad}


def merged(policy: Policy) -> Any:
    """A copy of the policy's model with its adapters merged in; the model itself where it has none."""
    import copy

    from peft.tuners.tuners_utils import BaseTunerLayer

    if not any(isinstance(module, BaseTunerLayer) for module in policy.model.modules()):
        return policy.model
    model = copy.deepcopy(policy.model)
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, key = name.rpartition(".")
            setattr(model.get_submodule(parent), key, module.get_base_layer())
    return model
