"""Upkeep of a gateway's folder, beside it: sealed segments for SQL, and their delivery to ClickHouse."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from noria.assistant.config.clickhouse import ClickHouseConfig
from noria.core.errors import ConfigError, MissingExtra
from noria.core.traces.clickhouse import Delivery, over_http
from noria.core.traces.segments import FRAMES, seal

EVERY = 30.0
"""Seconds between two sealings."""


class Upkeep:
    """Seals what is old enough, makes anew the segments of which a user was erased, and ships them.

    Without pyarrow nothing is sealed: the journal is the truth, and queries read it.

    Args:
        folder: folder of the gateway.
        clickhouse: where segments are shipped; None ships none.
        tell: hears that the store is down, and that it is there again.
        frames: number of frames in a segment.
        age: seconds for which the last record of a segment must lie in the past.

    Raises:
        ConfigError: the password is not there, or the address cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        clickhouse: ClickHouseConfig | None,
        tell: Callable[..., None],
        *,
        frames: int = FRAMES,
        age: float = 60.0,
    ) -> None:
        self.folder, self.tell = Path(folder), tell
        self.delivery = None if clickhouse is None else _delivery(self.folder, clickhouse)
        self._frames, self._age = frames, age
        self._next = 0.0
        self._down = False

    def step(self) -> None:
        """Do what is due.

        Raises:
            NoriaError: the disk refuses, or the manifest of the segments is damaged.
        """
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + EVERY
        try:
            seal(self.folder, frames=self._frames, age=self._age)
        except MissingExtra:
            if self.delivery is not None:
                raise
            self._next = float("inf")
            return
        if self.delivery is not None:
            self.delivery.step()
            down = self.delivery.error is not None
            if down and not self._down:
                self.tell("store down", error=str(self.delivery.error))
            elif self._down and not down:
                self.tell("store back", shipped=self.delivery.shipped)
            self._down = down


def _delivery(folder: Path, config: ClickHouseConfig) -> Delivery:
    password = ""
    if config.password_env is not None:
        if config.password_env not in os.environ:
            raise ConfigError(
                "the environment variable is not set",
                where=f"clickhouse.password_env: {config.password_env}",
                mend="set it, or leave password_env out",
            )
        password = os.environ[config.password_env]
    service = config.service or socket.gethostname()[:64]
    return Delivery(folder, over_http(config.url, password=password), service)
