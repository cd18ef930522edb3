"""The accent of the page in both modes: shades with a contrast of 4.5 : 1 (WCAG 2.2, 1.4.3), whatever colour it is."""

from __future__ import annotations

from collections.abc import Mapping

LEAST = 4.5
"""Least contrast of text."""
PAGES = {"light": "#f3f1eb", "dark": "#262421"}
"""The ground of each mode on which coloured text has the least contrast."""


def contrast(one: str, other: str) -> float:
    """Ratio of contrast of two colours, 1 to 21 (WCAG 2.2)."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def shades(accent: str) -> Mapping[str, Mapping[str, str]]:
    """The accent for each mode: `accent` for fills, `on-accent` for the text on it, `link` for coloured text."""
    return {
        mode: {
            "accent": fill,
            "on-accent": max(("#ffffff", "#000000"), key=lambda text, fill=fill: contrast(text, fill)),  # type: ignore[misc]
            "link": _readable(accent, ground, "#000000" if mode == "light" else "#ffffff"),
        }
        for mode, ground in PAGES.items()
        for fill in (accent if mode == "light" else _mixed(accent, "#ffffff", 0.25),)
    }


def _readable(color: str, ground: str, towards: str) -> str:
    """The colour, moved as far as its contrast with the ground asks for."""
    for step in range(21):
        moved = _mixed(color, towards, step / 20)
        if contrast(moved, ground) >= LEAST:
            return moved
    return towards


def _mixed(color: str, other: str, share: float) -> str:
    pairs = zip(_channels(color), _channels(other), strict=True)
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in pairs)


def _channels(color: str) -> list[int]:
    return [int(color[place : place + 2], 16) for place in (1, 3, 5)]


def _luminance(color: str) -> float:
    """Relative luminance of an sRGB colour, 0 to 1."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (channel / 255 for channel in _channels(color))
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
