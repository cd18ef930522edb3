"""What the learners of a gateway work with, and the names under which a configuration asks for them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from noria.assistant.config import AssistantConfig
from noria.assistant.config.learning import JUDGELESS, LearnerName, LearningConfig
from noria.assistant.learners.probing import Probed
from noria.assistant.parts.protocol import MODULES as PARTS, Part, open_part, prepare
from noria.core.chat import Message
from noria.core.completions.requests import CompletionRequest
from noria.core.errors import ConfigError
from noria.core.experiments.lifecycle import ExperimentConfig
from noria.core.judging import Checklist
from noria.core.judging.judges import ChatJudge
from noria.core.learning.in_order import InOrder, Way
from noria.core.learning.learner import Candidate, Parent
from noria.core.learning.routes.backends import Backend
from noria.core.learning.routes.replay import Replay, ReplayConfig
from noria.core.learning.routes.route import Route
from noria.core.traces.chats import Blobs
from noria.core.traces.ids import Clock

MODULES: Mapping[LearnerName, str] = {
    "routes": "noria.assistant.learners.routes",
    "descriptions": "noria.assistant.learners.skills.descriptions",
    "bodies": "noria.assistant.learners.skills.bodies",
    "router": "noria.assistant.learners.router",
    "plans": "noria.assistant.learners.products.plans",
    "heads": "noria.assistant.learners.heads",
    "planner": "noria.assistant.learners.pictures.planner",
    "student": "noria.assistant.learners.pictures.student",
    "creation": "noria.assistant.learners.skills.creation",
}
"""Module of each learner. It has `check(config)` and `open_learner(around)`."""
Through = Callable[[Route, Sequence[Message]], Route]
"""What a pipeline makes of a route for a conversation."""


@dataclass(frozen=True)
class Around:
    """What learners work with.

    Attributes:
        config: settings of the gateway.
        checklist: questions of the judges.
        backends: servers that answer, by name.
        blob: contents of the pictures in requests.
        parts: parts of the bundle that serves, in their order.
    """

    config: AssistantConfig
    checklist: Checklist
    backends: Mapping[str, Backend]
    blob: Blobs
    parts: Sequence[Part] = ()

    def replay(self, judge: str) -> Replay:
        """Replays requests and lets a backend judge the answers; both sides go through the parts that serve."""
        learning, judging = self.config.learning, self.config.judging
        settings = ReplayConfig(most_items=learning.most_items, judge_cost=judging.most_cost)
        named = ChatJudge(self.backends[judge].model, judge)
        passing = through(self.parts) if self.parts else None
        return Replay(self.backends, named, self.checklist, settings, self.blob, passing)


def check(config: AssistantConfig) -> None:
    """Check that the learners of a turn have what they need, before anything is opened.

    Raises:
        ConfigError: one has not. MissingExtra: its system is not installed.
    """
    if any(name not in JUDGELESS for name in config.learning.order):
        check_judged(config)
    for name in config.learning.order:
        import_module(MODULES[name]).check(config)


def check_judged(config: AssistantConfig) -> None:
    """Check that answers can be compared.

    Raises:
        ConfigError: the gate has no judge, or there is no checklist.
    """
    if not (config.judging.checklist and config.learning.gate_judge):
        raise ConfigError(
            "a gate needs a judge and a checklist",
            where="learning.gate_judge, judging.checklist",
            mend="give both in the gateway's configuration",
        )


def check_two_judges(config: AssistantConfig) -> None:
    """Check that the judge of a learner is another one than the gate's, which would forgive its own mistakes.

    Raises:
        ConfigError: the learner has no judge, or that of the gate.
    """
    if config.learning.judge in (None, config.learning.gate_judge):
        raise ConfigError(
            "the learner needs a judge of its own beside the gate's",
            where="learning.judge",
            mend="name another backend than gate_judge",
        )


def check_tool(config: AssistantConfig, name: str, kind: str, where: str) -> None:
    """Check that the tool of a learner is there.

    Raises:
        ConfigError: there is no such tool, or it is of another kind.
    """
    tool = config.parts.tools.get(name)
    if tool is None or tool.kind != kind:
        raise ConfigError(
            f"there is no tool {name!r} of the kind {kind}", where=where, mend="name one of parts.tools"
        )


def open_learners(around: Around, refused: Collection[str] = ()) -> InOrder:
    """The learners of a turn in the order that the configuration says.

    Args:
        around: what they work with.
        refused: content hashes of candidates that are not proposed again.
    """
    ways = []
    for name in around.config.learning.order:
        way: Way = import_module(MODULES[name]).open_learner(around)
        if name not in JUDGELESS and around.config.judging.probes.answers:
            judge = around.config.learning.gate_judge
            assert judge is not None, "checked before the turn begins"
            probed = Probed(way.evaluator, around.replay(judge), around.config.judging.probes)
            way = replace(way, evaluator=probed)
        if name in around.config.learning.agree:
            agrees = agreeing(around.config.learning, way.experiment)
            way = replace(way, experiment={**way.experiment, "agrees": agrees})
        ways.append(way)
    return InOrder(ways, refused)


def agreeing(learning: LearningConfig, own: Mapping[str, Any]) -> list[str]:
    """Figures that have to agree with the primary one: the users' rating and the judges' score, whichever it is not.

    Args:
        learning: settings of the turns.
        own: settings of the learner's experiments, which go before them.
    """
    default = ExperimentConfig.model_fields["primary"].default
    primary = own.get("primary", learning.experiment.get("primary", default))
    return [name for name in (learning.users, "score") if name != primary]


def through(parts: Sequence[Part]) -> Through:
    """What these parts make of a route; tools do not act."""

    def passing(route: Route, messages: Sequence[Message]) -> Route:
        wire: list[dict[str, Any]] = [one.wire() for one in messages]
        query = CompletionRequest({"messages": wire}, "", False, False, {})
        return prepare(query, route, parts, Clock()).route

    return passing


def parts_of(parent: Parent, backends: Sequence[str], candidate: Candidate | None = None) -> list[Part]:
    """The parts of a bundle in their order, with a candidate in the place of its kind.

    Raises:
        MissingExtra: a part's extra is not installed.
        NoriaError: an artefact cannot be used here.
    """
    made = []
    for kind in PARTS:
        folder: Path | None = parent.folder(kind)
        if candidate is not None and candidate.kind == kind:
            folder = candidate.folder
        if folder is not None:
            made.append(open_part(kind, folder, "", backends))
    return made
