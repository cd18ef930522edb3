"""Settings of the shop's products: their feeds, and the tool that searches them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from noria.core.config import ENVIRONMENT, Config


class FeedConfig(Config):
    """A feed of products: a file, or an address that is asked again."""

    path: Path | None = Field(None, description="File of the feed: csv, tsv, jsonl or xml.")
    url: str | None = Field(None, pattern=r"^https?://", description="Address of the feed.")
    format: Literal["csv", "tsv", "jsonl", "xml"] | None = Field(
        None,
        description="Format of the feed at the address; by default told by the file's ending or the media type.",
    )
    key_env: str | None = Field(
        None, pattern=ENVIRONMENT, description="Environment variable with the key of the address."
    )
    every: float = Field(3600.0, ge=1, description="Seconds between two looks at the feed.")
    seconds: float = Field(
        600.0, gt=0, le=86_400, description="Longest time in which the address gives the feed."
    )
    fetch_pictures: bool = Field(
        False,
        description="Whether pictures at public web addresses are fetched, so that they can be searched.",
    )

    @model_validator(mode="after")
    def _one(self) -> FeedConfig:
        if (self.path is None) == (self.url is None):
            raise ValueError("a feed has either a path or a url")
        return self


class ProductsConfig(Config):
    """Products of the shop, and the tool that searches them."""

    feeds: dict[Annotated[str, Field(pattern=r"^[\w.-]{1,64}$")], FeedConfig] = Field(
        min_length=1, description="Feeds by name."
    )
    tool: str = Field(
        "search_products", pattern=r"^[\w-]{1,64}$", description="Name by which a model calls the search."
    )
    most: int = Field(8, ge=1, le=24, description="Most products that an answer shows.")
