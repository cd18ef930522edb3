"""Kinds of reasoning edits: the families and tasks that RISEBench and KRIS-Bench published, as names to write for."""

from __future__ import annotations

from noria.core.errors import ConfigError

TAXONOMY: dict[str, tuple[str, ...]] = {
    "rise.temporal": (
        "life progression",
        "material progression",
        "environmental cycles",
        "societal transformation",
    ),
    "rise.causal": (
        "structural deformation",
        "state transition",
        "chemical and biological transformation",
        "physics manifestation",
    ),
    "rise.spatial": (
        "component assembly",
        "object arrangement",
        "viewpoint generation",
        "structural inference",
        "layout reasoning",
    ),
    "rise.logical": ("pattern prediction", "mathematical derivation", "puzzle solving"),
    "kris.attribute": ("count", "colour", "size", "part completion", "anomaly correction"),
    "kris.spatial": ("viewpoint", "position movement"),
    "kris.temporal": ("temporal prediction",),
    "kris.social": ("humanities", "practical knowledge"),
    "kris.natural": ("biology", "chemistry", "geography", "medicine", "mathematics", "physics"),
    "kris.logical": ("abstract reasoning", "rule-based reasoning"),
    "kris.decomposition": ("multi-element composition", "multi-instruction execution"),
}
"""Leaves by family."""


def leaves(families: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Pairs of family and leaf, of these families or of all.

    Raises:
        ConfigError: a family is unknown.
    """
    for name in families:
        if name not in TAXONOMY:
            raise ConfigError(
                f"no family {name!r}", where="families", mend=f"choose from {', '.join(TAXONOMY)}"
            )
    chosen = families or tuple(TAXONOMY)
    return [(family, leaf) for family in chosen for leaf in TAXONOMY[family]]
