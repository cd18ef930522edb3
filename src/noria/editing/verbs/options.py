"""Options that the verbs share: who plans, who edits, who judges; and the parts that are made of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from noria.core.chat.settings import ChatServer
from noria.core.config import Config, Option, load_config
from noria.core.errors import ConfigError
from noria.verbs.options import ServerOptions

if TYPE_CHECKING:
    from noria.core.judging.items import Judge
    from noria.editing.environment.judges import AtomicJudges
    from noria.editing.environment.rendering import Renderer
    from noria.editing.environment.rewarding import RewardEnvironment
    from noria.editing.types import Editor, Planner


class PlannerOptions(ServerOptions):
    """The planner: a vision-language model on a chat server, a trained one in this process, or none."""

    section: ClassVar[str] = "Planner"

    planner: Annotated[Path | None, Option(metavar="DIR")] = Field(
        None,
        description="Folder of a trained planner, of noria editing train or sft, to run in this process.",
    )
    direct: bool = Field(False, description="Use no planner: the request itself goes to the editor.")
    temperature: float = Field(0.7, ge=0, le=2, description="Temperature of the planner.")
    max_new_tokens: int = Field(2048, ge=16, le=65_536, description="Most tokens of the planner's output.")
    thinking: bool = Field(True, description="Require a think block in the planner's output.")


class EditorOptions(Config):
    """The editor: a server with /v1/images/edits, or a diffusers pipeline in this process."""

    section: ClassVar[str] = "Editor"

    editor_url: str | None = Field(
        None,
        description="Address of an OpenAI-compatible API with images/edits, such as http://127.0.0.1:8001/v1.",
    )
    editor_model: Annotated[str, Option(metavar="NAME")] = Field(
        "default", description="Name of the editor's model on its server."
    )
    editor_key_env: Annotated[str | None, Option(metavar="NAME")] = Field(
        None, description="Name of the environment variable that holds the editor's key."
    )
    editor_refuses: Annotated[tuple[str, ...], Option(metavar="LIST")] = Field(
        (), description="Fields that the editor's server does not take: seed, n, model, mask, images."
    )
    pipeline: Annotated[Path | None, Option(metavar="DIR")] = Field(
        None, description="Folder of a diffusers pipeline that edits pictures, to run in this process."
    )
    steps: int | None = Field(None, ge=1, le=1000, description="Steps of the pipeline.")
    guidance: float | None = Field(None, ge=0, description="Scale of the pipeline's guidance.")
    device: str = Field("cpu", description="Device of the pipeline, such as cuda.")
    precision: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="Number format of the pipeline's weights."
    )
    renders: int = Field(4, ge=1, le=256, description="Renders under way at once.")
    render_timeout: float = Field(300.0, gt=0, description="Seconds that one render may take.")
    register_pictures: bool = Field(
        True, description="Take back a small shift and zoom of the edited picture."
    )
    renders_cache: Annotated[Path | None, Option(metavar="DIR")] = Field(
        None, description="Folder in which renders are kept, to be used again."
    )


class JudgeOptions(Config):
    """The judge of plans and pictures: a vision-language model on a chat server."""

    section: ClassVar[str] = "Judge"

    judge_url: str | None = Field(None, description="Address of the judge's OpenAI-compatible API.")
    judge_model: Annotated[str | None, Option(metavar="NAME")] = Field(
        None, description="Name of the judge's model."
    )
    judge_key_env: Annotated[str | None, Option(metavar="NAME")] = Field(
        None, description="Name of the environment variable that holds the judge's key."
    )
    cross_url: str | None = Field(None, description="Address of a second judge, asked on a sample.")
    cross_model: Annotated[str | None, Option(metavar="NAME")] = Field(
        None, description="Name of the second judge's model."
    )
    cross_share: float = Field(
        0.05, ge=0, le=1, description="Share of judgements that the second judge makes."
    )
    editscore: Annotated[str | None, Option(metavar="BACKBONE")] = Field(
        None,
        description="Backbone of EditScore, such as qwen3vl, which then judges the pictures in this process.",
    )
    one_by_one: bool = Field(False, description="Ask each item in a request of its own.")
    canaries: int = Field(1, ge=0, le=4, description="Canary items in every judged checklist.")
    judgements: int = Field(16, ge=1, le=1024, description="Judgements under way at once.")


def judge_server(config: JudgeOptions) -> ChatServer | None:
    """Settings of the judge's server; None where no judge is named.

    Raises:
        ConfigError: its address or its model is missing or malformed.
    """
    return named_server(
        "judge", config.judge_url, config.judge_model, config.judge_key_env, config.judgements
    )


def named_server(
    name: str, url: str | None, model: str | None, key_env: str | None, in_flight: int, **more: object
) -> ChatServer | None:
    """Settings of a server that options of one prefix name; None where they do not.

    Raises:
        ConfigError: the address or the model's name is missing or malformed.
    """
    if url is None and model is None:
        return None
    if url is None or model is None:
        raise ConfigError(f"half a {name}", where=f"--{name}-url, --{name}-model", mend="give both")
    values = {"url": url, "model": model, "key_env": key_env, "in_flight": in_flight, **more}
    return load_config(ChatServer, base={key: value for key, value in values.items() if value is not None})


def check_planner(config: PlannerOptions) -> None:
    """Check that the options name one planner.

    Raises:
        ConfigError: none is named, or two.
    """
    named = [bool(config.url or config.model), config.planner is not None, config.direct]
    if sum(named) > 1:
        raise ConfigError("two planners", where="--url, --planner, --direct", mend="leave one of them out")
    if not (config.url or config.planner or config.direct):
        raise ConfigError(
            "no planner", where="--url", mend="give --url and --model of a server, --planner, or --direct"
        )


@contextlib.asynccontextmanager
async def opened_planner(config: PlannerOptions) -> AsyncIterator[Planner]:
    """Open the planner that the options name.

    Raises:
        ConfigError: none is named, or two.
    """
    from noria.core.chat import ChatClient
    from noria.editing.use.planners import ChatPlanner, DirectPlanner

    check_planner(config)
    if config.direct:
        yield DirectPlanner()
        return
    if config.planner is not None:
        async with running_planner(config, config.planner) as trained:
            yield trained
        return
    async with ChatClient(config.server()) as client:
        yield ChatPlanner(
            client, str(config.model), temperature=config.temperature, max_tokens=config.max_new_tokens
        )


@contextlib.asynccontextmanager
async def running_planner(config: PlannerOptions, folder: Path) -> AsyncIterator[Planner]:
    """A trained planner of a folder in this process, as the options say how it writes.

    Raises:
        ModelError: the folder holds no planner.
    """
    from noria.editing.planner.planning import PolicyPlanner

    planner = await asyncio.to_thread(
        PolicyPlanner.open, folder, temperature=config.temperature, max_tokens=config.max_new_tokens
    )
    async with planner.running():
        yield planner


@contextlib.asynccontextmanager
async def opened_editor(config: EditorOptions) -> AsyncIterator[Editor]:
    """Open the editor that the options name.

    Raises:
        ConfigError: none is named, or two.
        ModelError: the pipeline cannot be loaded.
    """
    if (config.editor_url is None) == (config.pipeline is None):
        raise ConfigError(
            "no editor, or two", where="--editor-url", mend="give --editor-url of a server, or --pipeline"
        )
    if config.pipeline is not None:
        from noria.editing.editors.pipeline import open_pipeline

        yield open_pipeline(
            config.pipeline,
            steps=config.steps,
            guidance=config.guidance,
            device=config.device,
            precision=config.precision,
        )
        return
    if config.steps is not None or config.guidance is not None:
        raise ConfigError("a server sets these itself", where="--steps, --guidance", mend="leave them out")
    from noria.editing.editors.server import ServerEditor

    server = named_server(
        "editor",
        config.editor_url,
        config.editor_model,
        config.editor_key_env,
        config.renders,
        timeout=config.render_timeout,
        refuses=config.editor_refuses,
        largest_reply=128 * 2**20,
    )
    assert server is not None
    async with ServerEditor(server) as editor:
        yield editor


@contextlib.asynccontextmanager
async def opened_renderer(config: EditorOptions) -> AsyncIterator[Renderer]:
    """Open the editor within its bounds and with its cache."""
    from noria.editing.environment.cache import RenderCache
    from noria.editing.environment.rendering import Renderer, RenderSettings

    async with opened_editor(config) as editor:
        # A client of a server tries again by itself, and a pipeline would fail alike.
        settings = RenderSettings(
            in_flight=config.renders,
            seconds=config.render_timeout * 4,
            attempts=1,
            register=config.register_pictures,
        )
        yield Renderer(editor, settings, cache=RenderCache(config.renders_cache))


@contextlib.asynccontextmanager
async def opened_judges(config: JudgeOptions) -> AsyncIterator[AtomicJudges | None]:
    """Open the judges that the options name; None where none is named."""
    from noria.core.chat import ChatClient
    from noria.core.judging import ChatJudge
    from noria.editing.environment.judges import AtomicJudges, JudgeSettings

    server = judge_server(config)
    other = named_server(
        "cross", config.cross_url, config.cross_model, config.judge_key_env, config.judgements
    )
    if server is None:
        alone = {"--cross-url": other, "--editscore": config.editscore}
        if given := [option for option, value in alone.items() if value is not None]:
            raise ConfigError(
                "nobody judges the plans",
                where=", ".join(given),
                mend="give --judge-url and --judge-model, too",
            )
        yield None
        return
    pictures: Judge | None = None
    if config.editscore is not None:
        from noria.editing.integrations.editscore import open_editscore

        pictures = await asyncio.to_thread(open_editscore, config.editscore)
    settings = JudgeSettings(
        in_flight=config.judgements,
        one_by_one=config.one_by_one,
        canaries=config.canaries,
        cross_share=config.cross_share,
    )
    async with contextlib.AsyncExitStack() as stack:
        judge = ChatJudge(await stack.enter_async_context(ChatClient(server)), server.model)
        cross: Judge | None = None
        if other is not None:
            cross = ChatJudge(await stack.enter_async_context(ChatClient(other)), other.model)
        yield AtomicJudges(judge, pictures or judge, settings, cross)


class EnvironmentConfig(PlannerOptions, EditorOptions, JudgeOptions):
    """Options of a reward environment: planner, editor and judge."""


@contextlib.asynccontextmanager
async def opened_environment(
    config: EnvironmentConfig, **settings: bool
) -> AsyncIterator[tuple[Planner, RewardEnvironment]]:
    """Open the planner, and an environment of the editor and the judges.

    Args:
        config: who plans, edits and judges.
        settings: fields of `EnvironmentSettings`.

    Raises:
        ConfigError: a part is not named.
    """
    from noria.editing.environment.rewarding import EnvironmentSettings, RewardEnvironment

    async with (
        opened_planner(config) as planner,
        opened_renderer(config) as renderer,
        opened_judges(config) as judges,
    ):
        if judges is None:
            raise ConfigError("no judge", where="--judge-url", mend="give --judge-url and --judge-model")
        chosen = EnvironmentSettings(
            in_flight=config.renders + config.judgements,
            need_thinking=config.thinking and not config.direct,
            **settings,
        )
        yield planner, RewardEnvironment(renderer, judges, chosen)
