"""What a request to the service may take."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ServeLimits"]


@dataclass(frozen=True)
class ServeLimits:
    """What a request may take.

    Attributes:
        body_bytes: of a request.
        seconds: of a whole answer, fallbacks with it.
        patience: seconds that one backend may take for its answer, or for the first word of a stream.
        in_flight: requests under way.
        fallbacks: backends tried after the first.
        failures: of a backend in a row, until it is left out for a while.
        rest: seconds that it is left out for; doubled each time it fails again, up to ten minutes.
    """

    body_bytes: int = 32 << 20
    seconds: float = 300.0
    patience: float = 120.0
    in_flight: int = 512
    fallbacks: int = 2
    failures: int = 3
    rest: float = 10.0
