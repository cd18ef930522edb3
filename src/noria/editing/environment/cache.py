"""The render cache: pictures by what decides about them, (pictures, mask, normalised plan, editor, seed)."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from PIL.Image import Image as Picture

from noria.core.errors import DataError, RunError
from noria.core.files import write_atomic
from noria.core.picture_files import open_picture, png
from noria.editing.plans import normalised

logger = logging.getLogger(__name__)


def render_key(digests: Sequence[str], plan: str, editor: str, seed: int) -> str:
    """SHA-256 of what decides about a render."""
    values = [list(digests), normalised(plan), editor, seed]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


class RenderCache:
    """Renders in memory, and on disk where a folder is given; several processes may use it at once.

    An entry is a PNG that appears whole or not at all; one that was cut counts as absent. Failures are not kept.

    Args:
        folder: folder of the entries; None keeps them in memory alone.
        in_memory: most pictures that are held in memory.
    """

    def __init__(self, folder: Path | None = None, *, in_memory: int = 256) -> None:
        self.folder, self.in_memory = folder, in_memory
        self._held: OrderedDict[str, Picture] = OrderedDict()
        self._full = False

    def get(self, key: str) -> Picture | None:
        """The picture of a key, or None."""
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        if self.folder is None:
            return None
        try:
            picture = open_picture(self._path(key))
        except DataError:
            return None
        self._hold(key, picture)
        return picture

    def put(self, key: str, picture: Picture) -> None:
        """Keep a picture. Where the disk refuses, the first time is logged and it stays in memory alone."""
        self._hold(key, picture)
        if self.folder is None:
            return
        try:
            write_atomic(self._path(key), png(picture), sync=False)
        except RunError as error:
            if not self._full:
                logger.warning("renders are not kept: %s", error)
            self._full = True

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key}.png"

    def _hold(self, key: str, picture: Picture) -> None:
        self._held[key] = picture
        self._held.move_to_end(key)
        while len(self._held) > self.in_memory:
            self._held.popitem(last=False)
