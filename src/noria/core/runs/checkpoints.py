"""Checkpoints: named tensors, JSON state and every random state, on disk as a folder that is whole or absent.

Tensors are safetensors, never pickle. A checkpoint is written under another name, synced, and renamed. Its digests are
checked before it is read: a checkpoint with a flipped bit is damaged, and the one before it is taken.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noria.core.digests import DIGESTS, check_digests, write_digests
from noria.core.errors import CheckpointError, NoriaError
from noria.core.files import appearing, check_input, disk_errors, remove_folder
from noria.core.records import json_object

if TYPE_CHECKING:
    from torch import Tensor, nn

_NAME = re.compile(r"step-(\d{8,})")
_TENSORS, _STATE = "tensors.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A saved step of a job.

    Attributes:
        step: number of the checkpoint.
        tensors: tensors by name, on the CPU.
        state: what is not a tensor, as JSON values.
        folder: folder of the checkpoint.
        rng: random states of Python, NumPy and PyTorch when it was saved.
    """

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    folder: Path
    rng: dict[str, Any] = field(repr=False)


def fingerprint(network: nn.Module) -> str:
    """Hash the names, shapes and a few values of a network's weights: it tells models apart, not single bits."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        flat = value.detach().flatten()
        sample = flat[:: max(1, flat.numel() // 32)][:64].float().cpu()
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:16]


def optimizer_tensors(optimizer: Any, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State of an optimizer for each parameter, as tensors named `optimizer.NAME.SLOT`."""
    return {
        f"optimizer.{name}.{slot}": value
        for name, parameter in parameters.items()
        for slot, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(
    optimizer: Any, parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> None:
    """Restore the state that `optimizer_tensors` returned."""
    for name, parameter in parameters.items():
        start = f"optimizer.{name}."
        slots = {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
        if slots:
            # PyTorch's optimizers want the step on the CPU; the rest belongs where the parameter is.
            optimizer.state[parameter] = {
                slot: value.clone() if slot == "step" else value.to(parameter)
                for slot, value in slots.items()
            }


def save_checkpoint(
    home: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    *,
    keep: int,
    log: Mapping[str, Any] | None = None,
) -> Path:
    """Write the checkpoint of `step` under `home`, with the current random states; keep the newest `keep`.

    Args:
        home: folder of the checkpoints.
        step: number of the checkpoint.
        tensors: tensors by name.
        state: what is not a tensor, as JSON values.
        keep: number of checkpoints to keep.
        log: size and digest of the run's log at this step.

    Raises:
        RunError: the disk refuses; the earlier checkpoints stay as they were.
    """
    from safetensors.torch import save_file

    folder = home / f"step-{step:08d}"
    with disk_errors(folder):
        with appearing(folder) as partial:
            files = partial / _TENSORS, partial / _STATE
            save_file(_separate(tensors), files[0])
            record = {"step": step, "state": dict(state), "log": log, "rng": _rng_states()}
            files[1].write_text(json.dumps(record), encoding="utf-8")
            write_digests(partial, files)
        for _, old in list_checkpoints(home)[keep:]:
            trash = home / f".{old.name}.trash"
            old.rename(trash)  # first, so that a half-deleted checkpoint never has a checkpoint's name
            remove_folder(trash)
    return folder


def newest_checkpoint(home: Path) -> Checkpoint | None:
    """The newest checkpoint under `home` that is whole, or None."""
    newest = _newest(home)
    if newest is None:
        return None
    from safetensors.torch import load_file

    step, path, record = newest
    return Checkpoint(step, dict(load_file(path / _TENSORS)), record["state"], path, record["rng"])


def newest_step(home: Path) -> int | None:
    """The step of the newest whole checkpoint, without reading its tensors."""
    newest = _newest(home)
    return None if newest is None else newest[0]


def newest_log(home: Path) -> dict[str, Any] | None:
    """Size and digest of the run's log at the newest checkpoint; None where none tells. Its tensors are not read."""
    for _, path in list_checkpoints(home):
        try:
            log = json.loads((path / _STATE).read_bytes())["log"]
            return {"bytes": int(log["bytes"]), "sha256": str(log["sha256"])}
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def set_aside(home: Path, *, after: int | None) -> None:
    """Rename the damaged checkpoints after the newest whole one, so that none counts among those to keep.

    Args:
        home: folder of the checkpoints; the caller holds the run's lock.
        after: step of the newest whole checkpoint; None where there is none.
    """
    for step, path in list_checkpoints(home):
        if after is not None and step > after:
            aside = path.with_name(f"{path.name}.damaged")
            remove_folder(aside)
            path.rename(aside)


def list_checkpoints(home: Path) -> list[tuple[int, Path]]:
    """Every checkpoint under `home`, whole or not, newest first."""
    names = [(_NAME.fullmatch(path.name), path) for path in home.glob("step-*")]
    return sorted(((int(match[1]), path) for match, path in names if match), reverse=True)


def sweep(home: Path) -> None:
    """Remove what a process killed in `save_checkpoint` left behind; the caller holds the run's lock."""
    for moved in home.glob(".step-*.old-*"):  # `appearing` was replacing a checkpoint
        folder = home / moved.name[1:].partition(".old-")[0]
        if not folder.exists():
            moved.rename(folder)
    for rest in home.glob(".step-*"):
        remove_folder(rest)


def restore_rng(checkpoint: Checkpoint) -> None:
    """Set the global random states of Python, NumPy and PyTorch to those of the checkpoint."""
    rng = checkpoint.rng
    version, words, gauss = rng["python"]
    random.setstate((version, tuple(words), gauss))
    if "numpy" in rng:
        import numpy as np

        name, keys, position, has_gauss, cached = rng["numpy"]
        np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    if "torch" in rng:
        import torch

        torch.set_rng_state(_bytes_tensor(rng["torch"]))
        if "cuda" in rng and torch.cuda.is_available():
            torch.cuda.set_rng_state_all([_bytes_tensor(text) for text in rng["cuda"]])


def _newest(home: Path) -> tuple[int, Path, dict[str, Any]] | None:
    for step, path in list_checkpoints(home):
        try:
            return step, path, _record(path)
        except CheckpointError as error:
            warnings.warn(f"{error}; it is skipped", stacklevel=4)
    return None


def _record(path: Path) -> dict[str, Any]:
    """Content of `state.json` of a checkpoint that is whole.

    Raises:
        CheckpointError: it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    file = path / _TENSORS
    try:
        record: dict[str, Any] = json_object(path / _STATE, "a checkpoint's state")
        if not {"state", "rng"} <= record.keys():
            raise ValueError(f"{_STATE} lacks a part")
        check_input(file)
        check_digests(path, needed=(_TENSORS, _STATE))
        # Checkpoints of versions without digests hold the length of their tensors.
        if not (path / DIGESTS).exists() and file.stat().st_size != record["tensors_bytes"]:
            raise ValueError(f"{file.name} has {file.stat().st_size} bytes, not {record['tensors_bytes']}")
        with safe_open(file, framework="numpy"):  # checks the header against the length
            return record
    except NoriaError as error:
        raise CheckpointError(
            f"damaged: {Path(error.where or '').name}: {error.what}", where=str(path)
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise CheckpointError(f"damaged: {error}", where=str(path)) from None


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors to the CPU, contiguous, each in memory of its own: safetensors refuses tensors that share it."""
    separate: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        storage = own.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != own.nbytes:
            own = own.clone()
        seen.add(own.untyped_storage().data_ptr())
        separate[name] = own
    return separate


def _rng_states() -> dict[str, Any]:
    """The global random states as JSON: Python's, and those of NumPy and PyTorch where they are imported."""
    version, words, gauss = random.getstate()
    states: dict[str, Any] = {"python": [version, list(words), gauss]}
    if "numpy" in sys.modules:
        import numpy as np

        name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
        states["numpy"] = [name, np.asarray(keys).tolist(), position, has_gauss, cached]
    if "torch" in sys.modules:
        import torch

        states["torch"] = bytes(torch.get_rng_state().tolist()).hex()
        if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            states["cuda"] = [bytes(state.tolist()).hex() for state in torch.cuda.get_rng_state_all()]
    return states


def _bytes_tensor(text: str) -> Tensor:
    import torch

    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
