"""The safetensors weights of a model folder: which file holds which tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from noria.core.errors import CheckpointError, ModelError
from noria.core.files import check_input, decoding, inside
from noria.core.records import json_object

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


@dataclass(frozen=True)
class ModelFiles:
    """The weights of a model folder.

    Attributes:
        folder: folder of the model.
        where: file of each tensor.
        sharded: whether there is an index.
    """

    folder: Path
    where: Mapping[str, str]
    sharded: bool

    @classmethod
    def of(cls, folder: Path) -> ModelFiles:
        """Read the index, or the names in the one file.

        Raises:
            ModelError: there are no safetensors weights.
            CheckpointError: an index or a file of it is missing or damaged.
        """
        if (folder / SINGLE).is_file():
            with open_safetensors(folder / SINGLE) as file:
                return cls(folder, dict.fromkeys(file.keys(), SINGLE), sharded=False)
        if not (folder / INDEX).is_file():
            raise ModelError(
                "no safetensors weights",
                where=str(folder),
                mend=f"give a model folder with {SINGLE} or {INDEX}",
            )
        with decoding(folder / INDEX, "an index", error=CheckpointError):
            where = json_object(folder / INDEX, "an index")["weight_map"]
            names = {str(name) for name in where.values()}
        for name in names:
            if not inside(folder, name).is_file():
                raise CheckpointError(f"the index names {name!r}, which is missing", where=str(folder))
        return cls(folder, where, sharded=True)

    def tensors(self, names: list[str]) -> dict[str, Tensor]:
        """Read some tensors."""
        tensors = {}
        for file in sorted({self.where[name] for name in names}):
            with open_safetensors(self.folder / file) as opened:
                tensors.update({name: opened.get_tensor(name) for name in names if self.where[name] == file})
        return tensors


@contextmanager
def open_safetensors(path: Path) -> Iterator[Any]:
    """Open a safetensors file; damage is an error of one line."""
    from safetensors import safe_open

    check_input(path)
    with decoding(path, "a safetensors file", mend="copy it again", error=CheckpointError):
        opened = safe_open(path, framework="pt")
    with opened as file:
        yield file
