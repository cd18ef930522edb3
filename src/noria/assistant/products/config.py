"""Settings of an update of the catalogue."""

from __future__ import annotations

from pydantic import Field

from noria.core.config import Config


class UpdateConfig(Config):
    """Limits of an update by a feed."""

    partial: bool = Field(
        False,
        description="Keep products that the feed does not hold, as when the feed is only a part of the catalogue.",
    )
    shrink: bool = Field(False, description="Allow the feed to remove more than half of its products.")
    fetch_pictures: bool = Field(
        False, description="Fetch pictures at public web addresses, so that they can be searched."
    )
