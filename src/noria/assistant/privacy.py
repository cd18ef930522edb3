"""What traces keep of people, for those of a gateway as for those of imported logs."""

from __future__ import annotations

from pydantic import Field

from noria.core.config import Config


class PrivacyConfig(Config):
    """What traces keep of people."""

    keep_personal: tuple[str, ...] = Field(
        (), description="Kinds of personal data that are not redacted, such as address."
    )
    find_personal: tuple[str, ...] = Field(
        (),
        description="Recognisers of personal data of your own, such as of names, each package.module:function.",
    )
    keep_pictures_days: float | None = Field(
        30.0,
        gt=0,
        description="Days for which pictures are kept; null keeps them until their user is erased.",
    )
