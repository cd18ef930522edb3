"""Finished chunks of a clip on disk, so that a stopped generation goes on; a chunk is kept whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noria.core.files import read_bytes, write_atomic


class ChunkStore:
    """Chunks of one order; what is damaged counts as absent.

    Args:
        folder: folder of the chunks of all orders.
        key: digest of all that the chunks depend on; each has a folder of its own.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder / key[:24], key

    def load(self, start: int, previous: str) -> tuple[Tensor, dict[str, float]] | None:
        """Video and figures of the chunk from a frame on, or None.

        Args:
            start: first frame of the chunk.
            previous: digest of the chunk before, whose frames this one continued.
        """
        path = self._path(start, previous)
        if not path.is_file():
            return None
        from safetensors.torch import load

        try:
            raw = read_bytes(path)
            digest, _, content = raw.partition(b"\n")
            if hashlib.sha256(content).hexdigest().encode() != digest:
                return None
            about, _, tensors = content.partition(b"\n")
            return load(tensors)["video"], dict(json.loads(about))
        except Exception:  # a cache: whatever is wrong with an entry, it is made anew
            return None

    def save(self, start: int, previous: str, video: Tensor, about: Mapping[str, float]) -> None:
        """Keep a finished chunk.

        Raises:
            RunError: the disk refuses.
        """
        from safetensors.torch import save

        content = json.dumps(dict(about)).encode() + b"\n" + save({"video": video.contiguous()})
        digest = hashlib.sha256(content).hexdigest().encode()
        write_atomic(self._path(start, previous), digest + b"\n" + content)

    def clear(self) -> None:
        """Remove the chunks of this order, once the whole clip is made of them."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.folder.parent.rmdir()  # where no other order has chunks

    def _path(self, start: int, previous: str) -> Path:
        name = hashlib.sha256(f"{self.key} {start} {previous}".encode()).hexdigest()[:24]
        return self.folder / f"{start:06d}-{name}.chunk"


def digest_of(*parts: Any) -> str:
    """Digest of tensors, arrays, bytes and JSON values."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            part = part.detach().cpu().contiguous().view(torch.uint8).numpy() if part.numel() else b""
        data = part if isinstance(part, bytes) else getattr(part, "tobytes", None)
        raw = (
            data if isinstance(data, bytes) else data() if data else json.dumps(part, sort_keys=True).encode()
        )
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()
