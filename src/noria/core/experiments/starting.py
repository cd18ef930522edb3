"""The start of an experiment: one at a time, since two who look at once would both see that none is open."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager

from noria.core.errors import ConflictError
from noria.core.storage.control import Control

LEASE = "start of an experiment"
"""Lease of who starts an experiment."""
_SECONDS = 10.0  # after which the lease of a process that was killed ends


@contextmanager
def starting(control: Control) -> Iterator[None]:
    """Held by one who looks whether an experiment is open and starts one, of all processes and threads.

    Args:
        control: where experiments are kept.

    Raises:
        ConflictError: others start experiments all the time. RunError: the control state refuses.
    """
    holder, end = secrets.token_hex(8), time.monotonic() + 2 * _SECONDS
    while (lease := control.acquire(LEASE, holder, seconds=_SECONDS)) is None:
        if time.monotonic() > end:
            raise ConflictError("another one is being started", where="experiment", mend="try again")
        time.sleep(0.05)
    try:
        yield
    finally:
        control.release(lease)
