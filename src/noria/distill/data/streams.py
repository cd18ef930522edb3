"""Permutations that are pure functions of their arguments: orders of prompts, held-out and balanced images."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["BALANCED", "HELD_OUT", "PROMPT_ORDER", "Integers", "permutation"]
Integers: TypeAlias = npt.NDArray[np.int64]
PROMPT_ORDER, HELD_OUT, BALANCED = 1, 2, 3  # what a Philox stream is for: no two uses share one


@lru_cache(maxsize=4)
def permutation(count: int, seed: int, number: int, purpose: int) -> Integers:
    """A permutation of `count` items that is a pure function of the arguments.

    Sorting a counter-based generator's raw bits keeps it so over NumPy releases too: `Generator.permutation` may
    change its stream, a bit generator's may not (NEP 19).
    """
    key = np.array([seed, number], dtype=np.uint64)
    generator = np.random.Philox(key=key, counter=np.array([0, 0, 0, purpose], dtype=np.uint64))
    order = np.argsort(generator.random_raw(count), kind="stable")
    order.flags.writeable = False  # the cache hands it out again
    return order
