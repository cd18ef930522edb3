"""Settings of the ClickHouse to which sealed traces are shipped."""

from __future__ import annotations

from pydantic import Field

from noria.core.config import ENVIRONMENT, Config


class ClickHouseConfig(Config):
    """A ClickHouse to which sealed traces are shipped, for what is above one machine."""

    url: str = Field(
        pattern=r"^https?://",
        description="Address of ClickHouse's HTTP interface, as in https://user@host:8443/database.",
    )
    password_env: str | None = Field(
        None, pattern=ENVIRONMENT, description="Environment variable that holds the password."
    )
    service: str | None = Field(
        None,
        pattern=r"^[\w.-]{1,64}$",
        description="Name of this gateway in ClickHouse's tables; the machine's name by default.",
    )
