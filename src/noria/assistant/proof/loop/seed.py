"""What a seed runs, as jobs that are kept: the claims and tables made of it may change and run nothing again."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from noria.assistant.proof.loop.bodies import run_bodies
from noria.assistant.proof.loop.harm import run_harm
from noria.assistant.proof.loop.logged import run_logged
from noria.assistant.proof.loop.looking import run_looking
from noria.assistant.proof.loop.parts import run_parts
from noria.assistant.proof.loop.seasons import Scale, Seasons, run_seasons
from noria.assistant.world.inside import InsideShop
from noria.core.runs.workers import report


def run_seed(seed: int, scale: dict[str, int]) -> dict[str, Any]:
    """All arms of one seed that live in one process: seasons, parts, bodies, planted harm, logs, pictures."""
    import torch

    torch.set_num_threads(1)
    sizes = Scale(**scale)

    async def run() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as home:
            async with InsideShop(Path(home)) as shop:
                seasons = Seasons(seed, sizes, shop)
                found, loop = await run_seasons(seasons)
                report(1, 5)
                found |= await run_parts(seasons, loop.version, Path(home))
                report(2, 5)
                found |= await run_bodies(seasons)
                report(3, 5)
                found |= await run_harm(seasons, loop.version)
                report(4, 5)
                return found | await run_logged(seasons)

    return asyncio.run(run()) | run_looking(seed, sizes.raters, sizes.deals)
