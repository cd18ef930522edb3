"""What serves at a moment: the champion's route, the challengers of open experiments, and who gets which.

A request takes one `Serving` when it begins and keeps it, so that no answer mixes two bundles.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from noria.assistant.config import AssistantConfig
from noria.assistant.parts.keeping import keep_parts
from noria.assistant.parts.protocol import MODULES, RANKERS, Part, Ranker, open_part, open_ranker
from noria.core.errors import ConfigError, DataError, MissingExtra, NoriaError
from noria.core.experiments.assignment import Arms, Assignment, assign
from noria.core.experiments.lifecycle import OPEN, TREATMENT, ExperimentConfig, Stage
from noria.core.experiments.starting import starting
from noria.core.learning.routes.route import FILE, KIND, Route
from noria.core.learning.scheduling.schedule import switched_on
from noria.core.records import read_json
from noria.core.storage.control import Control, Document, StaleVersion
from noria.core.versions.artefacts import ArtefactStore, Bundle, Lineage
from noria.core.versions.pointers import Move, Pointers

log = logging.getLogger("noria.serving")
CHAMPION = "champion"
"""Name of the pointer to the bundle that serves."""
EXPERIMENT = "experiment"
"""Kind of the documents that hold experiments."""
SWITCHES = {
    "experiments": "Experiments take traffic and are decided.",
    "judging": "Answers are judged by models.",
    "learning": "Turns of learning may start.",
    "promotion": "The champion may be replaced.",
}
"""Switches that an operator can turn off, and what each lets happen."""


@dataclass(frozen=True)
class Choice:
    """The bundle and the route that answer one request.

    Attributes:
        bundle: content hash of the bundle.
        route: how the request is answered, before the parts have acted.
        parts: parts of the pipeline, in their order.
        off: parts of the bundle that cannot act here, and why.
        ranker: puts the cards of tools in order; None leaves them as they are.
        assignments: arms of experiments that the request's unit got.
        artefacts: content hash of each artefact of the bundle, by its kind.
    """

    bundle: str
    route: Route
    parts: tuple[Part, ...] = ()
    off: Mapping[str, str] = field(default_factory=dict)
    ranker: Ranker | None = None
    assignments: tuple[Assignment, ...] = ()
    artefacts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class OpenExperiment:
    """An experiment that takes traffic.

    Attributes:
        config: settings of the experiment.
        stage: stage of the experiment.
        challenger: the bundle that may replace the champion.
        arms: shares of the units; None in the shadow.
    """

    config: ExperimentConfig
    stage: Stage
    challenger: Choice
    arms: Arms | None


@dataclass(frozen=True)
class Serving:
    """All that decides which bundle answers, at one moment.

    Attributes:
        champion: the bundle that answers where no experiment says otherwise.
        version: number of the pointer's move.
        experiments: experiments that take traffic.
        named: bundles by the name under which a request may ask for them.
    """

    champion: Choice
    version: int
    experiments: tuple[OpenExperiment, ...] = ()
    named: Mapping[str, Choice] = field(default_factory=dict)

    @property
    def bundle(self) -> str:
        """Content hash of the champion."""
        return self.champion.bundle

    def choose(self, unit: str) -> Choice:
        """The bundle for a unit; the same one for all its requests while an experiment stays as it is."""
        assignments = []
        choice = self.champion
        for experiment in self.experiments:
            assignment = None if experiment.arms is None else assign(experiment.arms, unit)
            if assignment is not None:
                assignments.append(assignment)
                if assignment.arm == TREATMENT:
                    choice = experiment.challenger
        return replace(choice, assignments=tuple(assignments))


class Bundles:
    """Bundles, pointers and experiments of a gateway.

    Args:
        control: documents of the gateway.
        artefacts: store of artefacts and bundles.
        config: settings of the gateway.

    Attributes:
        named: bundle of each configured route, by its name.
        unread: why a configured part is in none of these bundles, by its kind: its extra is not installed.
    """

    def __init__(self, control: Control, artefacts: ArtefactStore, config: AssistantConfig) -> None:
        self.control, self.artefacts, self.config = control, artefacts, config
        self.pointers = Pointers(control, artefacts)
        self._routes: dict[str, Route] = {}
        self._parts: dict[str, tuple[tuple[Part, ...], dict[str, str], Ranker | None]] = {}
        self._left_out: set[tuple[str, int]] = set()
        self.named: dict[str, str] = {}
        self.unread: dict[str, str] = {}

    def begin(self) -> None:
        """Keep the configured routes as bundles, and let the first one serve where nothing does yet.

        Raises:
            RunError: the disk refuses. DataError: what serves cannot be read.
        """
        parts, self.unread = keep_parts(self.config.parts, self.artefacts)
        self.named = {
            name: self.keep(one, by=f"routes.{name}", beside=parts).digest
            for name, one in self.config.routes.items()
        }
        if self.pointers.present(CHAMPION) is None:
            bundle = self.named[self.config.begin]
            self.pointers.promote(CHAMPION, bundle, based_on=0, by="configuration", reason="the first start")

    def keep(
        self, one: Route, *, by: str, parents: tuple[str, ...] = (), beside: Sequence[str] = ()
    ) -> Bundle:
        """Keep a route as an artefact, in a bundle with the artefacts beside it."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / FILE
            path.write_text(one.text)
            lineage = Lineage(parents=parents, by=by, at=time.time())
            artefact = self.artefacts.add(KIND, path, lineage=lineage)
        return self.artefacts.bundle([artefact.digest, *beside])

    def route_of(self, digest: str) -> Route:
        """The route of a bundle.

        Raises:
            DataError: the bundle is not there or damaged, has no route, or one whose backend is not configured.
        """
        if digest not in self._routes:
            bundle = self.artefacts.load_bundle(digest)
            if KIND not in bundle.artefacts:
                raise DataError("the bundle has no route", where=f"bundle {digest[:12]}")
            artefact = self.artefacts.artefact(bundle.artefacts[KIND])
            self.artefacts.verify(artefact)
            path = self.artefacts.path(artefact, FILE)
            try:
                one = Route.model_validate(read_json(path))
            except (ValidationError, ConfigError) as error:
                raise DataError(f"it holds no route: {error}", where=str(path)) from error
            if one.backend not in self.config.backends:
                raise DataError(
                    f"its backend {one.backend!r} is not configured",
                    where=f"bundle {digest[:12]}",
                    mend="add it to backends",
                )
            self._routes[digest] = one
        return self._routes[digest]

    def parts_of(self, digest: str) -> tuple[tuple[Part, ...], dict[str, str], Ranker | None]:
        """Parts of a bundle in their order, those that cannot act here with the reason, and its ranker.

        Raises:
            DataError: the bundle is not there or damaged, or a part cannot be used with this configuration.
        """
        if digest not in self._parts:
            artefacts = self.artefacts.load_bundle(digest).artefacts
            parts: list[Part] = []
            off: dict[str, str] = {}
            ranker: Ranker | None = None
            for kind in (*MODULES, *RANKERS):
                if kind not in artefacts:
                    continue
                artefact = self.artefacts.artefact(artefacts[kind])
                self.artefacts.verify(artefact)
                try:
                    folder = self.artefacts.path(artefact)
                    if kind in RANKERS:
                        ranker = open_ranker(kind, folder, artefact.digest)
                    else:
                        parts.append(open_part(kind, folder, artefact.digest, list(self.config.backends)))
                except MissingExtra as error:
                    off[kind] = str(error)
                    log.warning("the part %s is off: %s", kind, error)
            self._parts[digest] = tuple(parts), off, ranker
        return self._parts[digest]

    def choice_of(self, digest: str) -> Choice:
        """The choice that a bundle makes: its route, prompt and artefacts.

        Raises:
            NoriaError: it cannot serve, see :meth:`route_of` and :meth:`parts_of`.
        """
        artefacts = self.artefacts.load_bundle(digest).artefacts
        parts, off, ranker = self.parts_of(digest)
        unread = {kind: why for kind, why in self.unread.items() if kind not in artefacts}
        return Choice(digest, self.route_of(digest), parts, unread | off, ranker, artefacts=artefacts)

    def is_on(self, switch: str) -> bool:
        """Whether a switch is on, as each is until somebody turns it off."""
        return switched_on(self.control, switch)

    def serving(self) -> Serving:
        """The bundles that serve at this moment. An experiment that cannot be read here takes no traffic here.

        Raises:
            DataError: the champion cannot be read.
        """
        move = self.pointers.present(CHAMPION)
        if move is None:
            raise DataError("nothing serves yet", where=CHAMPION, mend="promote a bundle")
        experiments = []
        if self.is_on("experiments"):
            for document in self.control.read_all(EXPERIMENT):
                value = document.value or {}
                if value.get("stage") not in OPEN or value.get("paused"):
                    continue
                config = self.settings_of(document)
                if config is None or config.champion != move.bundle:
                    continue  # its champion was replaced: it compares nothing that serves
                stage: Stage = value["stage"]
                try:
                    challenger = self.choice_of(config.challenger)
                except NoriaError as error:
                    self._leave_out(document, str(error))
                    continue
                experiments.append(OpenExperiment(config, stage, challenger, config.arms(stage)))
        named = {name: self.choice_of(bundle) for name, bundle in self.named.items()}
        return Serving(self.choice_of(move.bundle), move.version, tuple(experiments), named)

    def settings_of(self, document: Document) -> ExperimentConfig | None:
        """Settings of an experiment; None, which is logged once, where they cannot be read.

        A gateway of a later version, which shares the control state, may have written more than this one knows.
        """
        try:
            return _settings((document.value or {}).get("config"))
        except ConfigError as error:
            self._leave_out(document, str(error))
            return None

    def _leave_out(self, document: Document, reason: str) -> None:
        if (document.key, document.version) not in self._left_out:
            self._left_out.add((document.key, document.version))
            log.warning("the experiment %s is left out here: %s", document.key, reason)

    def move(
        self,
        bundle: str | None,
        *,
        based_on: int,
        by: str,
        reason: str,
        receipt: Mapping[str, Any] | None = None,
    ) -> Move:
        """Let another bundle serve, or go back to the one before where `bundle` is None.

        Raises:
            StaleVersion: somebody moved it meanwhile.
            DataError: the bundle is not there, damaged, has no route that can serve, or promotion is switched off.
        """
        if bundle is None:
            return self.pointers.roll_back(CHAMPION, based_on=based_on, by=by, reason=reason)
        if not self.is_on("promotion"):
            raise DataError("promotion is switched off", where="switch promotion", mend="turn it on first")
        self.choice_of(bundle)
        return self.pointers.promote(
            CHAMPION, bundle, based_on=based_on, by=by, reason=reason, receipt=receipt
        )

    def move_by_hand(self, bundle: str | None, *, based_on: int, by: str, reason: str) -> Move:
        """Move the champion as an operator wishes, and end the experiments that compare with the one before.

        Otherwise a roll-back right after it would find them open again.

        Raises:
            StaleVersion: somebody moved it meanwhile.
            DataError: see :meth:`move`.
        """
        move = self.move(bundle, based_on=based_on, by=by, reason=reason)
        for document in self.control.read_all(EXPERIMENT):
            value = dict(document.value or {})
            config = value.get("config", {})
            if value.get("stage") in OPEN and config.get("champion") != move.bundle:
                won = config.get("challenger") == move.bundle
                value |= {"stage": "promoted" if won else "stopped", "reason": f"{by} set another champion"}
                with contextlib.suppress(StaleVersion):  # the companion saw it, too
                    self.control.write(EXPERIMENT, document.key, value, based_on=document.version, by=by)
        return move

    def start(self, values: Mapping[str, Any], *, by: str) -> ExperimentConfig:
        """Start an experiment in its first stage.

        Raises:
            ConfigError: the settings are no experiment's, or another one is open.
            DataError: a bundle cannot serve, or the champion does not serve now.
            RunError: the control state refuses.
        """
        move = self.pointers.present(CHAMPION)
        champion = "" if move is None else move.bundle
        values = {"champion": champion, "salt": secrets.token_hex(16), **values}
        values["challenger"] = self.named.get(str(values.get("challenger")), values.get("challenger"))
        config = _settings(values)
        if config.champion != champion:
            raise DataError("its champion does not serve now", where="champion", mend=f"use {champion}")
        if config.challenger == champion:
            raise DataError("the challenger serves already", where="challenger")
        self.choice_of(config.challenger)
        with starting(self.control):
            for document in self.control.read_all(EXPERIMENT):
                if (document.value or {}).get("stage") in OPEN:
                    raise ConfigError(
                        f"the experiment {document.key} is open", where="experiment", mend="stop it first"
                    )
            earlier = self.control.read(EXPERIMENT, config.name)
            if earlier is not None:
                raise ConfigError("there was an experiment of this name", where="name", mend="choose another")
            first_stage: Stage = "shadow" if config.shadow_requests else "canary"
            value = {"config": config.model_dump(mode="json"), "stage": first_stage, "reason": "started"}
            self.control.write(EXPERIMENT, config.name, value, based_on=0, by=by)
        return config


def _settings(values: Any) -> ExperimentConfig:
    """Settings of an experiment from JSON values.

    Raises:
        ConfigError: they are none.
    """
    try:
        return ExperimentConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "config"
        raise ConfigError(first["msg"].removeprefix("Value error, "), where=where) from None
