"""What of the configuration is off since an extra is not installed, each with the command that mends it.

Nothing is imported to find out: the gateway starts without what it does not use, and asks only whether it is there.
What it serves by itself needs the extra `serve` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from noria.assistant.config import AssistantConfig
from noria.assistant.config.learning import JUDGELESS, LearnerName
from noria.core.errors import MissingExtra


@dataclass(frozen=True)
class Use:
    """Something that a gateway, its companion or its turns do by packages of an extra.

    Attributes:
        name: what is off without them.
        extra: extra that brings them.
        packages: packages that are imported.
        used: whether a configuration asks for it.
    """

    name: str
    extra: str
    packages: tuple[str, ...]
    used: Callable[[AssistantConfig], bool]


def _learns(name: LearnerName) -> Callable[[AssistantConfig], bool]:
    return lambda config: name in config.learning.order


def _asks_judges(config: AssistantConfig) -> bool:
    learning = config.learning
    return learning.gate_judge is not None and any(one not in JUDGELESS for one in learning.order)


_CLIENT = ("openai",)  # what else the client needs comes with `serve`
USES = (
    Use("SQL over traces, their Parquet segments and data sets as Parquet", "traces", ("duckdb", "pyarrow"),
        lambda config: True),
    Use("the judges of the panel", "openai", _CLIENT, lambda config: bool(config.judging.backends)),
    Use("the judging of whether answers rest on their pictures", "grounding", _CLIENT,
        lambda config: config.judging.grounding is not None),
    Use("turns of learning that replay and judge", "openai", _CLIENT, _asks_judges),
    Use("the learner router", "routing", ("torch",), _learns("router")),
    Use("the learner heads", "mtp", ("torch", "transformers"), _learns("heads")),
    Use("the learner planner", "editing", ("torch", "transformers"), _learns("planner")),
    Use("the learner student", "distill", ("torch", "diffusers"), _learns("student")),
)  # fmt: skip
"""What may be off beside the parts of a bundle, which say so when they are opened."""


def missing(config: AssistantConfig) -> dict[str, str]:
    """What a configuration uses and cannot have, with the package that is not installed and what mends it."""
    found: dict[str, str] = {}
    for use in USES:
        package = next((one for one in use.packages if not _is_there(one)), None)
        if package is not None and use.used(config):
            found[use.name] = str(MissingExtra(package, use.extra))
    return found


def all_off(config: AssistantConfig, parts: Mapping[str, str]) -> dict[str, str]:
    """All that is off: parts of the bundle by their kind, and what :func:`missing` finds."""
    return {f"the part {kind}": why for kind, why in parts.items()} | missing(config)


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # something forbids it, or it is a module without a file
        return False
