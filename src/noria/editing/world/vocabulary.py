"""Words of the world: what can stand in a scene, where, and under which names.

A name is one word for a sprite (`ice`) and a colour with a shape for a drawn thing (`red circle`). Some names have a
second word that means the same (`puddle`, `water`): people and judges take both, and the editor knows one of them only
(:mod:`noria.editing.world.editor`).
"""

from __future__ import annotations

COLUMNS, ROWS = "abcd", "1234"
"""Columns from left to right, rows from top to bottom."""
CELLS = tuple(column + row for row in ROWS for column in COLUMNS)
"""Cells in reading order: `a1` is at the top left, `d4` at the bottom right."""
OUTSIDE = (*(c + "0" for c in COLUMNS), *(c + "9" for c in COLUMNS), *("z" + r for r in ROWS))
"""Cells that a sloppy plan names: above (`b0`), below (`b9`) and to the right (`z2`) of the grid."""

SPRITES = {
    "ice": "1f9ca",
    "puddle": "1f4a7",
    "snowman": "26c4",
    "egg": "1f95a",
    "chick": "1f425",
    "omelette": "1f373",
    "caterpillar": "1f41b",
    "butterfly": "1f98b",
    "seedling": "1f331",
    "tree": "1f333",
    "rose": "1f339",
    "tulip": "1f337",
    "wilted": "1f940",
    "corn": "1f33d",
    "popcorn": "1f37f",
    "log": "1fab5",
    "fire": "1f525",
    "firecracker": "1f9e8",
    "blast": "1f4a5",
    "balloon": "1f388",
    "apple": "1f34e",
    "turtle": "1f422",
    "mushroom": "1f344",
    "fish": "1f41f",
    "cookie": "1f36a",
}
"""Code point of the Twemoji drawing of each sprite, by its name."""
SHAPES = ("circle", "square", "triangle")
COLOURS = {
    "red": (214, 48, 49),
    "blue": (47, 98, 214),
    "green": (52, 163, 83),
    "orange": (243, 146, 21),
    "purple": (134, 62, 176),
}
DRAWN = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
NAMES = (*SPRITES, *DRAWN)
"""Every name that a scene's things can have."""
INERT = ("apple", "turtle", "mushroom", "fish", "cookie", "balloon")
"""Sprites that no event of time, heat or fire changes."""

SYNONYMS = {
    "water": "puddle",
    "withered": "wilted",
    "explosion": "blast",
    "flames": "fire",
    "amber": "orange",
    "emerald": "green",
}
"""Second words, by which the same thing may be called: the word, and the usual one."""

EXECUTABLE = {usual: second for second, usual in SYNONYMS.items()}
"""Second words for the usual ones, which every editor of this world knows."""


def usual(words: str) -> str:
    """The usual name behind a name with second words: `amber circle` is `orange circle`."""
    return " ".join(SYNONYMS.get(word, word) for word in words.split())


def place(cell: str) -> tuple[int, int]:
    """Column and row of a cell, counted from 0 at the top left."""
    return COLUMNS.index(cell[0]), ROWS.index(cell[1])


def cell_at(column: int, row: int) -> str:
    """Name of the cell at a column and a row, both 0 to 3."""
    return COLUMNS[column] + ROWS[row]
