"""Settings of serving engines with which a head drafts from its distribution and rejection verifies the drafts.

Both have it switched off by default: vLLM drafts the argmax, SGLang compares with it. Settings that change the target's
law are found, and refused where the text trains a policy.
"""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from noria.core.errors import ConfigError
from noria.mtp.types import MAX_GAMMA, LayoutName, Rule

_THRESHOLDS = ("accept_threshold", "accept_threshold_single", "accept_threshold_acc", "lenience")


@dataclass(frozen=True)
class ServingConfig:
    """Settings with which engines serve a model with its head.

    Attributes:
        vllm: the value of vLLM's `speculative_config` (and of `trl vllm-serve --speculative_config`).
        sglang: SGLang's flags.
        note: why an engine will not honour the settings; None if nothing is known against it.
    """

    vllm: Mapping[str, Any]
    sglang: Sequence[str]
    note: str | None = None

    def text(self, model: str) -> str:
        """Commands to copy."""
        config = shlex.quote(json.dumps(self.vllm))
        return "\n".join(
            [
                "# vLLM",
                f"vllm serve {shlex.quote(model)} --speculative-config {config}",
                "# TRL on vLLM",
                f"trl vllm-serve --model {shlex.quote(model)} --speculative_config {config}",
                "# SGLang",
                f"python -m sglang.launch_server --model-path {shlex.quote(model)} {' '.join(self.sglang)}",
            ]
        )


def serving_config(gamma: int = 3, rule: Rule = "rejection") -> ServingConfig:
    """Settings of vLLM (0.26 on, which has `draft_sample_method`) and SGLang (0.5.23) for γ drafts a round.

    Raises:
        ConfigError: γ out of range, or a rule that the engines do not have.
    """
    if not 1 <= gamma <= MAX_GAMMA:
        raise ConfigError(f"{gamma} drafts a round", where="gamma", mend=f"give 1 to {MAX_GAMMA}")
    if rule == "match":
        raise ConfigError("no engine offers it by name", where="rule match", mend="use rejection")
    vllm = {
        "method": "mtp",
        "num_speculative_tokens": gamma,
        "draft_sample_method": "greedy" if rule == "target_only" else "probabilistic",
        "rejection_sample_method": "block" if rule == "block" else "standard",
    }
    sglang = [
        "--speculative-algorithm NEXTN",
        f"--speculative-num-steps {gamma}",
        "--speculative-eagle-topk 1",
        f"--speculative-num-draft-tokens {gamma + 1}",
    ]
    if rule != "target_only":
        sglang.append("--speculative-use-rejection-sampling")
    if rule == "block":
        sglang.append("--speculative-use-block-verification")
    return ServingConfig(vllm, tuple(sglang))


def against_serving(kind: str, family: LayoutName | None, layout: LayoutName, layers: int) -> str | None:
    """Why vLLM and SGLang will not draft with a head, or not with all of it; None if nothing is known against it.

    Args:
        kind: the model's `model_type`.
        family: layout of the model's vendor, from :func:`noria.mtp.heads.layouts.family_of`.
        layout: layout of the head.
        layers: number of the head's layers.
    """
    if family is None:
        return (
            f"vLLM and SGLang have no MTP for {kind} models and will not load this head; "
            "it drafts in noria (noria.mtp.decoding.generate, TRL's rollouts)"
        )
    if family != layout:
        return f"engines look for a {kind} model's head under {family} names, and this one has {layout} names"
    if layout == "mimo" and layers > 1:
        return f"vLLM drafts with the first layer of a MiMo head alone, and this one has {layers}"
    return None


def lossy_settings(settings: Mapping[str, Any]) -> list[str]:
    """The settings, by name, that let through what the target's law would not; names of vLLM, SGLang and others.

    Args:
        settings: settings of an engine, some inside others as in vLLM's `speculative_config`; `-` and `_`
            mean the same, dashes in front and what stands before a dot are ignored.
    """
    lossy = []
    for name, value in settings.items():
        plain = str(name).rpartition(".")[2].lstrip("-").replace("-", "_")
        if isinstance(value, str) and value.lstrip().startswith("{"):
            with contextlib.suppress(ValueError):
                value = json.loads(value)
        if isinstance(value, Mapping):
            lossy += lossy_settings(value)
        elif value is not None and _is_lossy(plain, value):
            lossy.append(f"{plain}={value}")
    return lossy


def _is_lossy(name: str, value: Any) -> bool:
    if name.startswith("synthetic_acceptance"):
        return True
    if name == "rejection_sample_method":
        return str(value) in ("synthetic", "typical", "lenient")
    if name in ("acceptance_method", "spec_decoding_acceptance_method", "verifier"):
        return "typical" in str(value)
    if name.removeprefix("speculative_") not in _THRESHOLDS:
        return False
    try:
        return float(value) != 1
    except (TypeError, ValueError):
        return True  # nothing that leaves the law as it is


def refuse_lossy(settings: Mapping[str, Any], *, allow_lossy: bool = False) -> None:
    """Stop where text that trains a policy would not be the policy's own.

    Raises:
        ConfigError: a setting changes the law, and `allow_lossy` does not ask for it by name.
    """
    lossy = lossy_settings(settings)
    if lossy and not allow_lossy:
        raise ConfigError(
            "the rollout would not be the policy's own text",
            where=", ".join(lossy),
            mend="leave it out, or set allow_lossy=true",
        )
