"""Checkpoints: named tensors, JSON state and every random state, on disk as a folder that is whole or absent.

Tensors are safetensors, never pickle. A checkpoint is written beside its final name, synced, and renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noria.core.errors import CheckpointError
from noria.core.files import disk_errors, fsync_folder, remove_folder, write_atomic

if TYPE_CHECKING:
    from torch import Tensor, nn

_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """What a job saved at `step`: `tensors` by name (on the CPU), JSON `state`, and the random states of then."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    folder: Path
    rng: dict[str, Any] = field(repr=False)


def fingerprint(network: nn.Module) -> str:
    """A hash of a network's names, shapes and some values of each weight: tells models apart, not single bits."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        flat = value.detach().flatten()
        some = flat[:: max(1, flat.numel() // 32)][:64].float().cpu()
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(some.numpy().tobytes())
    return digest.hexdigest()[:16]


def optimizer_tensors(optimizer: Any, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What an optimiser remembers of each parameter, as `optimizer.NAME.SLOT`."""
    return {
        f"optimizer.{name}.{slot}": value
        for name, parameter in parameters.items()
        for slot, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(
    optimizer: Any, parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` gave."""
    for name, parameter in parameters.items():
        start = f"optimizer.{name}."
        # The step stays on the CPU, as the optimiser wants it; the rest goes where the parameter is.
        found = {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
        if found:
            optimizer.state[parameter] = {
                slot: value.clone() if slot == "step" else value.to(parameter)
                for slot, value in found.items()
            }


def save_checkpoint(
    home: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], *, keep: int
) -> Path:
    """Write the checkpoint of `step` under `home`, with the random states of now; keep the newest `keep`.

    Raises:
        RunError: the disk refuses; the earlier checkpoints stay as they were.
    """
    final = home / f"step-{step:08d}"
    writing = home / f".writing-{final.name}"
    replaced = home / f".replaced-{final.name}"
    with disk_errors(final):
        remove_folder(writing)
        writing.mkdir(parents=True)
        try:
            size = _write_tensors(writing / "tensors.safetensors", tensors)
            record = {"step": step, "state": dict(state), "tensors_bytes": size, "rng": _rng_states()}
            write_atomic(writing / "state.json", json.dumps(record))
        except BaseException:
            remove_folder(writing)
            raise
        if final.exists():
            final.rename(replaced)  # sweep() puts it back if we die before the next line is done
        writing.rename(final)
        fsync_folder(home)
        remove_folder(replaced)
        for _, old in list_checkpoints(home)[keep:]:
            trash = home / f".trash-{old.name}"
            old.rename(trash)  # so that a half-deleted checkpoint never bears a checkpoint's name
            remove_folder(trash)
    return final


def newest_checkpoint(home: Path) -> Checkpoint | None:
    """The newest checkpoint under `home` that is whole, or None."""
    found = _newest(home)
    if found is None:
        return None
    from safetensors.torch import load_file

    step, path, record = found
    return Checkpoint(
        step, dict(load_file(path / "tensors.safetensors")), record["state"], path, record["rng"]
    )


def newest_step(home: Path) -> int | None:
    """The step of that checkpoint, without reading its tensors."""
    found = _newest(home)
    return None if found is None else found[0]


def list_checkpoints(home: Path) -> list[tuple[int, Path]]:
    """Every checkpoint under `home`, whole or not, newest first."""
    found = [(_NAME.fullmatch(path.name), path) for path in home.glob("step-*")]
    return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)


def sweep(home: Path) -> None:
    """Clear away what a process killed in `save_checkpoint` left behind."""
    for replaced in home.glob(".replaced-*"):
        final = home / replaced.name.removeprefix(".replaced-")
        if not final.exists():
            replaced.rename(final)
    for left in [*home.glob(".writing-*"), *home.glob(".trash-*"), *home.glob(".replaced-*")]:
        remove_folder(left)


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
            torch.cuda.set_rng_state_all([_bytes_tensor(one) for one in rng["cuda"]])


def _newest(home: Path) -> tuple[int, Path, dict[str, Any]] | None:
    for step, path in list_checkpoints(home):
        try:
            return step, path, _record(path)
        except CheckpointError as error:
            warnings.warn(f"{error}; it is skipped", stacklevel=4)
    return None


def _record(path: Path) -> dict[str, Any]:
    """What `state.json` holds, once the checkpoint is known to be whole."""
    from safetensors import SafetensorError, safe_open

    file = path / "tensors.safetensors"
    try:
        record: dict[str, Any] = json.loads((path / "state.json").read_bytes())
        size = file.stat().st_size
        if size != record["tensors_bytes"] or not {"state", "rng"} <= record.keys():
            raise ValueError(f"{file.name} has {size} bytes, its record says {record['tensors_bytes']}")
        with safe_open(file, framework="numpy"):  # checks the header against the length
            return record
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"damaged: {error}", where=str(path)) from None


def _write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> int:
    """Write them and return the file's size."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(_separate(tensors), file)
    except SafetensorError as error:
        system = re.search(r"\(os error (\d+)\)", str(error))
        if system is None:
            raise
        raise OSError(int(system[1]), os.strerror(int(system[1]))) from error
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
        return os.fstat(handle).st_size
    finally:
        os.close(handle)


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU and contiguous, each in memory of its own: safetensors refuses tensors that share it."""
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
    """The global random states, as JSON: Python's, and NumPy's and PyTorch's where they are in use."""
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
            states["cuda"] = [bytes(one.tolist()).hex() for one in torch.cuda.get_rng_state_all()]
    return states


def _bytes_tensor(text: str) -> Tensor:
    import torch

    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
