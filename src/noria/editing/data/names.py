"""What follows from a task's id: the seed of its renders, and the name of its files."""

from __future__ import annotations

import hashlib
import re


def task_seed(identity: str, seed: int) -> int:
    """Seed of a task's renders: the same for all rollouts of it, and another for every task."""
    text = f"{seed} {identity}".encode("utf-8", "replace")
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big") >> 1


def file_name(identity: str) -> str:
    """Name of a file for an id that may hold any character, a path's too; different ids have different names."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", identity)[:40].strip("-")
    mark = hashlib.sha256(identity.encode("utf-8", "replace")).hexdigest()[:10]
    return f"{plain}-{mark}" if plain else mark
