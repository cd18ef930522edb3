"""A trained model router as a part: it chooses the backend of a request, by the quality that it expects of each.

An artefact of the kind `model-router` is a router's folder as `noria routing train` writes it. Its models are backends
of the same names; a strategy of a route is the operator's business and is not applied here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from noria.assistant.parts.protocol import Step
from noria.core.completions.requests import CompletionRequest
from noria.core.errors import ConfigError, needing
from noria.core.learning.routes.route import Route
from noria.core.traces.records import SpanKind

with needing("routing"):
    from noria.routing.routers.files import open_router
    from noria.routing.routers.router import Router


class RoutingPart:
    """Chooses among the backends that both the router and the configuration know.

    Args:
        router: trained router.
        backends: names of the backends.
        artefact: digest of its artefact.

    Raises:
        ConfigError: no model of the router is a backend.
    """

    kind: SpanKind = "model"

    def __init__(self, router: Router, backends: Sequence[str], artefact: str = "") -> None:
        self.router, self.artefact = router, artefact
        self.among = [one for one in router.routes if one.model in backends]
        if not self.among:
            known = ", ".join(sorted({one.model for one in router.routes}))
            raise ConfigError(
                f"the router knows the models {known}, and none is a backend",
                where="backends",
                mend="name the backends as the router's table names its models",
            )

    def apply(self, query: CompletionRequest, route: Route) -> Step | None:
        """Do what :meth:`Part.apply` says; a request without words stays with its route's backend."""
        if not query.question.strip():
            return None
        decision = self.router.decide(query.question, among=self.among)
        utility: dict[str, float] = {}
        for one, value in zip(decision.ranking, decision.utility, strict=True):
            utility.setdefault(one.model, value)  # the best strategy of a model comes first
        chosen = decision.route.model
        return Step(
            self.router.kind,
            route.model_copy(update={"backend": chosen}),
            utility,
            chosen,
            attributes={"reason": decision.reason},
        )


def open_part(folder: Path, digest: str, backends: Sequence[str]) -> RoutingPart:
    """The part of an artefact.

    Raises:
        CheckpointError: the router is damaged.
        ConfigError: no model of the router is a backend.
    """
    return RoutingPart(open_router(folder), backends, digest)
