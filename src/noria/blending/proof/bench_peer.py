"""The peer of the service's benchmark: FastAPI with a pydantic model a row, as its documentation would have it.

It ranks with the same `Blender` as ours and answers with the same account of every item.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

from noria.core.errors import needing

with needing("proof"):
    import fastapi
    import uvicorn
    from pydantic import BaseModel

from noria.blending.blender import Blender
from noria.blending.snapshot import Snapshot

__all__ = ["main"]


class Fields(BaseModel):
    """Fields that plans are targeted on."""

    age: float
    topic: str


class Item(BaseModel):
    """A candidate as it comes."""

    id: str
    score: float
    source: str
    fields: Fields


class RankRequest(BaseModel):
    """A request to rank."""

    id: str
    size: int
    items: list[Item]


class Placed(BaseModel):
    """A candidate of the list, with its account."""

    item: str
    score: float
    value: float
    boost: dict[str, float]
    guard: float


class RankReply(BaseModel):
    """The list with its accounts."""

    id: str
    version: int
    snapshot: str
    items: list[Placed]


def app_of(blender: Blender) -> Any:
    """The application that ranks with a blender."""
    app = fastapi.FastAPI()

    @app.post("/rank")
    async def rank(request: RankRequest) -> RankReply:
        ranked = blender.rank(
            {
                "item": [item.id for item in request.items],
                "score": [item.score for item in request.items],
                "source": [item.source for item in request.items],
                "age": [item.fields.age for item in request.items],
                "topic": [item.fields.topic for item in request.items],
            },
            request.size,
            at=0.0,
        )
        placed = []
        for place, row in enumerate(ranked.order.tolist()):
            mask = int(ranked.mask[place])
            placed.append(
                Placed(
                    item=request.items[row].id,
                    score=float(ranked.score[place]),
                    value=float(ranked.value[place]),
                    boost={
                        plan: float(ranked.contributions[place, bit])
                        for bit, plan in enumerate(ranked.plans)
                        if mask >> bit & 1
                    },
                    guard=float(ranked.guard[place]),
                )
            )
        return RankReply(id=request.id, version=ranked.version, snapshot=ranked.snapshot, items=placed)

    return app


def main() -> None:
    """Serve a snapshot's file on a free port, and say which."""
    blender = Blender(Snapshot.load(Path(sys.argv[1])))
    listening = socket.create_server(("127.0.0.1", 0))
    print(f"serving on http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    config = uvicorn.Config(app_of(blender), access_log=False, log_level="critical", http="httptools")
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
