"""Groups of options that verbs share, beside `noria.core.models.config.ModelOptions`, and the refusal of unused ones.

The Config of a verb inherits the groups that it uses, and no others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from noria.core.chat.settings import ChatServer, Prices
from noria.core.config import Config, Option, load_config
from noria.core.errors import ConfigError


def refuse_given(config: Config, *names: str, because: str, mend: str = "leave it out") -> None:
    """Refuse settings that were given and would not be honoured.

    Args:
        config: settings of the verb.
        names: fields that go unused.
        because: why they do.
        mend: what the user can do.

    Raises:
        ConfigError: one of them was given, on the command line, as `key=value` or in a file.
    """
    fields = type(config).model_fields
    for name in names:
        if name in config.model_fields_set and getattr(config, name) != fields[name].get_default():
            marker = next((m for m in fields[name].metadata if isinstance(m, Option)), Option())
            long = next((n for n in marker.names if n.startswith("--")), f"--{name.replace('_', '-')}")
            raise ConfigError(f"it has no effect here: {because}", where=long, mend=mend)


class SeedOption(Config):
    """Seed of a verb that draws random numbers."""

    seed: int = Field(0, ge=0, description="Seed of the random generators.")


class OutputOption(Config):
    """Folder of a verb's results."""

    section: ClassVar[str] = "Output"

    output: Annotated[str | None, Option("-o", metavar="PATH", was=("--out",))] = Field(
        None, description="Folder of the results (default: runs/SYSTEM/NAME)."
    )


class JsonOption(Config):
    """Output of results as JSON."""

    section: ClassVar[str] = "Output"

    as_json: Annotated[bool, Option("--json")] = Field(
        False, description="Print the results as JSON instead of a table."
    )


class QuietOption(Config):
    """Suppression of the progress of a long job."""

    section: ClassVar[str] = "Output"

    quiet: Annotated[bool, Option("-q")] = Field(False, description="Show no progress.")


class ServerOptions(Config):
    """An OpenAI-compatible server, and the model on it."""

    section: ClassVar[str] = "Server"

    url: str | None = Field(
        None, description="Address of an OpenAI-compatible API, such as http://127.0.0.1:8000/v1."
    )
    model: Annotated[str | None, Option(metavar="NAME")] = Field(
        None, description="Name of the model on the server."
    )
    key_env: Annotated[str | None, Option(metavar="NAME")] = Field(
        None, description="Name of the environment variable that holds the key."
    )
    prices: Annotated[Prices | None, Option(metavar="IN,OUT")] = Field(
        None, description="Prices of a million tokens in and out; a budget needs them."
    )
    in_flight: int = Field(16, ge=1, le=4096, description="Requests under way at once.")
    timeout: float = Field(300.0, gt=0, description="Seconds that one attempt may take.")
    requests_per_minute: float | None = Field(None, gt=0, description="Most requests sent in a minute.")

    @field_validator("prices", mode="before")
    @classmethod
    def _two_numbers(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            first, second = (float(part) for part in value.split(","))
        except ValueError:
            raise ValueError(f"{value!r} is not two prices, such as 0.5,1.5") from None
        return {"input": first, "output": second}

    def server(self) -> ChatServer:
        """Settings of the server for the chat client.

        Raises:
            ConfigError: the address or the model's name is missing or malformed.
        """
        if not self.url or not self.model:
            raise ConfigError("no server to ask", where="--url, --model", mend="give both")
        values = self.model_dump(include=set(ServerOptions.model_fields), exclude_none=True)
        return load_config(ChatServer, base=values)


class VersionsOption(Config):
    """Versions that a server answers by, beside the one that it is started with."""

    section: ClassVar[str] = "Service"

    versions: Annotated[Path | None, Option(metavar="FOLDER")] = Field(
        None,
        description="Folder of the versions of noria serve: a request that names the content hash of one as its model "
        "is answered by it.",
    )


class ListenOptions(Config):
    """Address of a service, and the token that may change its state."""

    section: ClassVar[str] = "Service"

    host: str = Field("127.0.0.1", description="Address to listen on; beyond loopback it needs a token.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    token_file: Path | None = Field(
        None, description="File of the token (default: the environment variable NORIA_TOKEN)."
    )
