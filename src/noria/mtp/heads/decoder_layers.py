"""A decoder layer of a head under the names that its vendor's files have, by transformers' own conversions."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from noria.core.errors import CheckpointError
from noria.core.models.loading import quiet_loading


class _Stack(PreTrainedModel):  # type: ignore[misc]
    """A decoder layer where the backbone's files would have it, so that transformers' own conversions apply."""

    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True

    def __init__(self, config: Any, block: nn.Module) -> None:
        super().__init__(copy.deepcopy(config))
        self.model = nn.Module()
        self.model.layers = nn.ModuleList([block])

    _can_set_attn_implementation = classmethod(lambda cls: True)
    _can_set_experts_implementation = classmethod(lambda cls: True)


_PLACE = "model.layers.0."


def _conversions(backbone: Any) -> list[Any]:
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter

    conversions = getattr(backbone, "_weight_conversions", None)
    if conversions is None:
        conversions = get_model_conversion_mapping(backbone, add_legacy=False)
    return [conversion for conversion in conversions if isinstance(conversion, WeightConverter)]


def as_stored(backbone: Any, block: nn.Module, prefix: str) -> dict[str, Tensor]:
    """A block's tensors as files have them: experts that are computed in one tensor are stored one by one."""
    from transformers.core_model_loading import revert_weight_conversion

    shell = _shell(backbone, block)
    shell._weight_conversions = _conversions(backbone) or None
    state = {_PLACE + name: t for name, t in block.state_dict().items()}
    stored = revert_weight_conversion(shell, state) if shell._weight_conversions else state
    return {prefix + name.removeprefix(_PLACE): t for name, t in stored.items()}


def load_layer(
    backbone: Any, block: nn.Module, stored: Mapping[str, Tensor], prefix: str, folder: Path
) -> None:
    """Load a head's decoder layer from tensors that have their vendor's names behind `prefix`.

    Raises:
        CheckpointError: a tensor is missing, of another shape or not finite.
    """
    from transformers.core_model_loading import convert_and_load_state_dict_in_model
    from transformers.modeling_utils import LoadStateDictConfig

    expected = {prefix + n for n in _names(backbone, block)}
    if missing := sorted(expected - stored.keys()):
        raise CheckpointError(
            f"the head lacks {missing[0]}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""),
            where=str(folder),
            mend="give the model's complete files",
        )
    state = {_PLACE + key.removeprefix(prefix): t for key, t in stored.items() if key in expected}
    like = next(block.parameters())
    try:
        with quiet_loading(transformers):
            info, _ = convert_and_load_state_dict_in_model(
                model=_shell(backbone, block),
                state_dict=state,
                load_config=LoadStateDictConfig(
                    weight_mapping=copy.deepcopy(_conversions(backbone)),
                    device_map={"": like.device},
                    dtype=like.dtype,
                    ignore_mismatched_sizes=True,
                ),
            )
    except RuntimeError as error:
        raise CheckpointError(
            "the head's tensors do not fit the model", where=str(folder), mend="another model's head?"
        ) from error
    if info.mismatched_keys or info.missing_keys:
        name = sorted(
            str(k[0] if isinstance(k, tuple) else k) for k in info.mismatched_keys or info.missing_keys
        )[0]
        raise CheckpointError(
            f"{prefix + name.removeprefix(_PLACE)} has another shape than the model's layers",
            where=str(folder),
            mend="it is another model's head",
        )
    for name, parameter in block.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise CheckpointError(f"{prefix}{name} holds values that are not finite", where=str(folder))


def _names(backbone: Any, block: nn.Module) -> set[str]:
    return {name.removeprefix(_PLACE) for name in as_stored(backbone, block, _PLACE)}


def _shell(backbone: Any, block: nn.Module) -> Any:
    return _Stack(backbone.config.get_text_config(), block)
