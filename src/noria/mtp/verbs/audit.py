"""`noria mtp audit`: does an engine sample by the model's law?"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
from pydantic import Field

from noria.core.config import Option
from noria.core.errors import ConfigError
from noria.core.progress import Progress
from noria.mtp.config import SourceOptions, refuse_unused
from noria.mtp.types import MAX_GAMMA, Rule
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, QuietOption, SeedOption

if TYPE_CHECKING:
    from noria.mtp.engines.audit import AuditReport
    from noria.mtp.engines.engine import Engine, Sampler
    from noria.mtp.heads.loading import LoadedPolicy

PROMPTS = ("Q: 7+5", "def ", "The")


class AuditConfig(SourceOptions, SeedOption, JsonOption, QuietOption):
    """Settings of `noria mtp audit`."""

    engine: Annotated[str, Option(metavar="NAME")] = Field(
        "noria",
        description="Engine to audit: noria, transformers, or module:name of a callable "
        "(prompt, n, params, seed) -> sequences.",
    )
    plain: bool = Field(False, description="Audit our decoder without drafts.")
    url: Annotated[str | None, Option(metavar="URL", was=("--server",))] = Field(
        None, description="Address of an OpenAI-compatible server of the same weights, to audit instead."
    )
    served_model: Annotated[str | None, Option(metavar="NAME")] = Field(
        None, description="Name of the model on the server (default: the only one)."
    )
    prompt: Annotated[list[str], Option(metavar="TEXT", split=False)] = Field(
        [], description="Text that sequences continue; may be given again (default: three of our own)."
    )
    prompts: Annotated[Path | None, Option(metavar="FILE")] = Field(
        None, description="Prompts that sequences continue: .jsonl or .parquet."
    )
    gamma: int = Field(3, ge=1, le=MAX_GAMMA, description="Drafts of a round.")
    rule: Rule = Field("rejection", description="Rule by which our decoder verifies drafts.")
    samples: int = Field(4000, ge=50, description="Sequences of a statistical check.")
    depth: int | None = Field(
        None, ge=1, description="Tokens whose joint law is tested (default: one more than the drafts)."
    )
    alpha: float = Field(1e-3, gt=0, lt=1, description="Probability of convicting a lossless engine.")


@make_command(AuditConfig, extra="mtp", needs=("torch", "transformers"))
def command(config: AuditConfig) -> int:
    """Test whether an engine samples by the law of the model; exits 1 if it does not.

    A server's key is read from OPENAI_API_KEY.
    """
    report = run(config, Progress(quiet=config.quiet))
    click.echo(report.to_json() if config.as_json else report.table())
    return int(report.verdict == "fail")


def run(config: AuditConfig, progress: Progress) -> AuditReport:
    """Audit an engine by the law of a model that is loaded here beside it.

    Raises:
        NoriaError: anything that a user can mend.
    """
    from noria.mtp.engines.audit import STEPS, audit
    from noria.mtp.engines.local import law_of
    from noria.mtp.heads.loading import open_policy

    _check(config)
    drafts = config.engine == "noria" and config.url is None and not config.plain
    source = open_policy(config, head=drafts)
    source.check_gamma(config.gamma)
    policy, depth = source.policy, config.depth or config.gamma + 1
    prompts = _prompts(config, policy.tokenizer)
    engine = _engine(config, source, prompts[0], depth + config.gamma)
    with progress:
        task = progress.task("audit", STEPS)
        report = audit(
            engine,
            law_of(policy.model, vocab=policy.vocab),
            prompts,
            samples=config.samples,
            depth=depth,
            seed=config.seed,
            alpha=config.alpha,
            on_step=task.at,
        )
        task.done()
    return report


def _check(config: AuditConfig) -> None:
    """Refuse options that the engine under audit has no use for."""
    if config.url is not None:
        refuse_unused(config, ("engine", "plain", "rule"), "with --url")
    else:
        refuse_unused(config, ("served_model",), "without --url")
    if config.engine != "noria":
        refuse_unused(config, ("plain", "rule"), f"with --engine {config.engine}")
    if config.plain:
        refuse_unused(config, ("rule",), "with --plain")
    if config.prompts is not None:
        refuse_unused(config, ("prompt",), "with --prompts")


def _prompts(config: AuditConfig, tokenizer: object) -> list[list[int]]:
    """Prompts as tokens.

    Raises:
        ConfigError: the prompt has no token.
        DataError: the file of prompts is malformed.
    """
    from noria.mtp.decoding.sample_files import read_prompts

    if config.prompts is not None:
        return [list(prompt.tokens) for prompt in read_prompts(config.prompts, tokenizer)]
    texts = config.prompt or PROMPTS
    prompts = [list(tokenizer(text)["input_ids"]) for text in texts]  # type: ignore[operator]
    if not all(prompts):
        raise ConfigError("a prompt without tokens", where="--prompt", mend="give some text")
    return prompts


def _engine(config: AuditConfig, source: LoadedPolicy, prompt: list[int], length: int) -> Engine | Sampler:
    from noria.mtp.engines.local import policy_engine, transformers_engine
    from noria.mtp.engines.remote_engines import Server, server_engine

    if config.url is not None:
        return server_engine(Server(config.url, config.served_model), length=length)
    if config.engine == "noria":
        return policy_engine(
            source.policy, source.head, prompt, length=length, gamma=config.gamma, rule=config.rule
        )
    if config.engine == "transformers":
        return transformers_engine(source.policy.model, length=length)
    return _named_sampler(config.engine)


def _named_sampler(name: str) -> Sampler:
    """Import the callable at `module:name`; a module may lie in the current folder.

    Raises:
        ConfigError: there is none.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ConfigError(
            f"no engine {name!r}", where="--engine", mend="choose noria, transformers or module:name"
        )
    sys.path.insert(0, "")
    try:
        sampler: Sampler = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(str(error), where=f"--engine {name}") from error
    finally:
        sys.path.remove("")
    if not callable(sampler):
        raise ConfigError("it is not callable", where=f"--engine {name}")
    return sampler
