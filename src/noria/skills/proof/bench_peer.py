"""The peers' side of the bench, in their own environment: semantic-router routes, skills-ref validates.

It reads a JSON object a line on standard input and answers with the seconds that its part took. The encoder is this
package's own, so that the routers are compared and not the vectors.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from noria.skills.routing.encoders import StaticEncoder


def make_router(routes: dict[str, list[str]]) -> Any:
    """semantic-router's IndexedRouter with its defaults, over a static encoder."""
    base: Any = importlib.import_module("semantic_router.encoders.base").DenseEncoder
    static = StaticEncoder()

    class Encoder(base):  # type: ignore[misc]
        def __call__(self, docs: Sequence[Any]) -> list[list[float]]:
            return [row.tolist() for row in static.encode([str(doc) for doc in docs])]

        async def acall(self, docs: Sequence[Any]) -> list[list[float]]:
            return self(docs)

    route: Any = importlib.import_module("semantic_router.route").Route
    indexed: Any = importlib.import_module("semantic_router.routers.indexed").IndexedRouter
    made = [route(name=name, utterances=utterances) for name, utterances in routes.items()]
    return indexed(encoder=Encoder(name="static"), routes=made)


def main() -> None:
    """Answer commands until standard input ends."""
    router: Any = None
    validate: Callable[[Path], list[str]] = importlib.import_module("skills_ref").validate
    for line in sys.stdin:
        asked = json.loads(line)
        began = time.perf_counter()
        if asked["do"] == "make":
            router = make_router(asked["routes"])
        elif asked["do"] == "one":
            for query in asked["queries"]:
                router(query)
        elif asked["do"] == "batch":
            router.evaluate(asked["queries"], asked["labels"])
        elif asked["do"] == "validate":
            for path in sorted(Path(asked["folder"]).iterdir()):
                validate(path)
        elif asked["do"] == "verdicts":
            found = {path.name: validate(path) for path in sorted(Path(asked["folder"]).iterdir())}
            print(json.dumps(found), flush=True)
            continue
        print(json.dumps(time.perf_counter() - began), flush=True)


if __name__ == "__main__":
    main()
