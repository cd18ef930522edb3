"""The configured parts of a bundle as artefacts: skills, router and plans, copied by content when a gateway starts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from noria.assistant.config.parts import PartsConfig
from noria.core.errors import MissingExtra
from noria.core.versions.artefacts import Artefact, ArtefactStore, Lineage


def keep_parts(config: PartsConfig, artefacts: ArtefactStore) -> tuple[list[str], dict[str, str]]:
    """Keep the configured parts as artefacts. One whose extra is not installed is left out, and the service starts.

    Args:
        config: settings of the pipeline.
        artefacts: versions of the service.

    Returns:
        digests of the artefacts; and why a part is left out, by its kind.

    Raises:
        NoriaError: a part cannot be read, or the disk refuses.
    """
    keep: dict[str, Callable[[], Artefact]] = {}
    if config.skills is not None:
        keep["skills"] = lambda: _keep_skills(config, artefacts)
    if config.router is not None:
        keep["model-router"] = lambda: _keep_router(config, artefacts)
    if config.blending is not None:
        keep["plans"] = lambda: _keep_plans(config, artefacts)
    digests: list[str] = []
    left_out: dict[str, str] = {}
    for kind, kept in keep.items():
        try:
            digests.append(kept().digest)
        except MissingExtra as error:
            left_out[kind] = str(error)
    return digests, left_out


def _keep_skills(config: PartsConfig, artefacts: ArtefactStore) -> Artefact:
    from noria.assistant.parts.skills import SkillSettings, write_part

    skills = config.skills
    assert skills is not None
    settings = SkillSettings(encoder=skills.encoder, project=skills.project)
    with tempfile.TemporaryDirectory() as folder:
        write_part(skills.bank, Path(folder), settings, skills.data)
        return artefacts.add("skills", Path(folder), lineage=Lineage(by="parts.skills"))


def _keep_router(config: PartsConfig, artefacts: ArtefactStore) -> Artefact:
    assert config.router is not None
    inner = config.router / "router"
    source = inner if inner.is_dir() else config.router
    return artefacts.add("model-router", source, lineage=Lineage(by="parts.router"))


def _keep_plans(config: PartsConfig, artefacts: ArtefactStore) -> Artefact:
    from noria.assistant.parts.blending import write_ranker

    assert config.blending is not None
    with tempfile.TemporaryDirectory() as folder:
        write_ranker(config.blending, Path(folder))
        return artefacts.add("plans", Path(folder), lineage=Lineage(by="parts.blending"))
