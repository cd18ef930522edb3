"""Waiting for something to happen in another process or thread; for the tests of every system."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def until(done: Callable[[], Any], seconds: float = 60.0) -> Any:
    """What `done` returns once that is true; the test fails where it takes too long."""
    end = time.monotonic() + seconds
    while not (result := done()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
    return result
