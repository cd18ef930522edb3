"""`noria assistant init`: the configuration of a gateway from a few answers."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import click
from pydantic import Field

from noria.core.chat.settings import ChatServer
from noria.core.config import Argument, Config, parse_config
from noria.core.errors import ConfigError, DataError
from noria.core.files import write_atomic
from noria.core.yaml_values import yaml_text
from noria.verbs.command import command as make_command

LOCAL = "http://127.0.0.1:8000/v1"
"""Address at which vLLM, SGLang and others listen by default."""
NEXT = """{file} is written. Next:

  export NORIA_TOKEN=$(python3 -c "import secrets; print(secrets.token_hex(24))")   # what changes state needs it
  noria serve --config {file} --port {port}
  curl -s http://127.0.0.1:{port}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "noria", "user": "ann", "messages": [{{"role": "user", "content": "Hello!"}}]}}'

The console is at http://127.0.0.1:{port}/, and every setting is in docs/assistant.md."""


class InitConfig(Config):
    """Settings of `noria assistant init`."""

    output: Annotated[Path, Argument("FILE")] = Field(Path("noria.yaml"), description="File that is written.")
    url: str | None = Field(
        None, pattern=r"^https?://", description="Address of an OpenAI-compatible server, ending in /v1."
    )
    model: str | None = Field(None, min_length=1, description="Model on that server.")
    key_env: str | None = Field(None, description="Environment variable with the server's key.")
    judge_url: str | None = Field(
        None,
        pattern=r"^https?://",
        description="Address of the judge's server; by default that of the model's server.",
    )
    judge: str | None = Field(
        None,
        min_length=1,
        description="Model that judges answers; without one rules alone judge, and nothing learns.",
    )
    skills: Path | None = Field(None, description="Folder of a bank of SKILL.md files.")
    mcp: tuple[str, ...] = Field(
        (), description="Addresses of MCP servers whose tools the assistant may call."
    )
    feed: Path | None = Field(
        None, description="Feed of products: csv, tsv, jsonl, or Google Merchant's XML."
    )
    ask: bool = Field(True, description="Ask for what is not given, where somebody sits at the terminal.")


@make_command(InitConfig)
def command(config: InitConfig) -> None:
    """Write the configuration of a gateway, which `noria serve --config FILE` starts.

    At a terminal it asks for what the options do not say. The address that you give there is asked for its models, and
    nothing else is sent.
    """
    from noria.assistant.config import AssistantConfig

    if config.output.exists():
        raise ConfigError(
            "the file is there already", where=str(config.output), mend="name another one, or remove it"
        )
    if config.ask and config.url is None and sys.stdin.isatty():
        config = _asked(config)
    if config.url is None or config.model is None:
        raise ConfigError(
            "a gateway needs a model", where="--url, --model", mend=f"such as --url {LOCAL} --model NAME"
        )
    if config.skills is not None and not config.skills.is_dir():
        raise DataError("there is no such folder of skills", where=str(config.skills))
    if config.feed is not None:
        from noria.assistant.products.updating import checked_feed

        click.echo(f"{len(checked_feed(config.feed).products):,} products in {config.feed}", err=True)
    text = draft(config)
    parse_config(AssistantConfig, text.encode(), where=str(config.output))
    write_atomic(config.output, text)
    port = 8010 if ":8000" in config.url else 8000
    click.echo(NEXT.format(file=config.output, port=port))


def _asked(config: InitConfig) -> InitConfig:
    """The answers of whoever sits at the terminal, beside what the options say."""
    said: dict[str, Any] = {"url": click.prompt("Address of an OpenAI-compatible server", LOCAL)}
    key = click.prompt("Environment variable with its key (empty for none)", "", show_default=False)
    said["key_env"] = config.key_env or key or None
    names = _models(said["url"], said["key_env"])
    if names:
        click.echo(f"It offers: {', '.join(names[:12])}")
    said["model"] = config.model or click.prompt("Model that answers", names[0] if names else None)
    judge = click.prompt("Model that judges (empty for rules alone)", "", show_default=False)
    said["judge"] = config.judge or judge or None
    for name, question in (
        ("skills", "Folder of skills (empty for none)"),
        ("feed", "Feed of products (empty for none)"),
    ):
        answer = getattr(config, name) or click.prompt(question, "", show_default=False)
        said[name] = Path(answer) if answer else None
    tool = (
        ""
        if config.mcp
        else click.prompt("Address of an MCP server (empty for none)", "", show_default=False)
    )
    said["mcp"] = config.mcp or ((tool,) if tool else ())
    return InitConfig.model_validate(config.model_dump() | said)


def _models(url: str, key_env: str | None) -> list[str]:
    """Names of the models that a server lists; none where it does not answer."""
    try:
        server = ChatServer(url=url, model="?", key_env=key_env)
        request = urllib.request.Request(f"{url.rstrip('/')}/models", headers=_key(server))
        with urllib.request.urlopen(request, timeout=5.0) as answer:
            listed = json.loads(answer.read(1 << 20))["data"]
        return [str(one["id"]) for one in listed]
    except (OSError, ValueError, LookupError, TypeError):
        click.echo("It does not answer now; the name of the model is yours to give.")
        return []


def _key(server: ChatServer) -> dict[str, str]:
    import os

    key = os.environ.get(server.key_env or "")
    return {"authorization": f"Bearer {key}"} if key else {}


def draft(config: InitConfig) -> str:
    """The configuration as YAML, with a line before each section that says what it is for."""
    key = {"key_env": config.key_env} if config.key_env else {}
    backends: dict[str, Any] = {"main": {"url": config.url, "model": config.model, **key}}
    parts = [_section("Servers that answer. Prices are per million tokens.", {"backends": backends})]
    if config.judge:
        own = {} if config.judge_url else key
        backends["judge"] = {"url": config.judge_url or config.url, "model": config.judge, **own}
        parts = [
            _section("Servers that answer and judge. Prices are per million tokens.", {"backends": backends})
        ]
    routes = {
        "plain": {"backend": "main"},
        "brief": {"backend": "main", "system": "Answer in at most three sentences."},
    }
    parts.append(
        _section(
            "Ways to answer; an experiment compares two of them, and a turn chooses.",
            {"routes": routes, "begin": "plain"},
        )
    )
    if config.judge:
        checklist = [
            {"id": "answers", "question": "Does the answer do what the user asked for?"},
            {"id": "correct", "question": "Is everything in the answer true, as far as you can tell?"},
            {"id": "rude", "question": "Is the answer rude or careless with the user?", "good": "no"},
        ]
        judging = {"checklist": checklist, "backends": ["judge"], "share": 0.2}
        parts.append(
            _section(
                "What a good answer is, and the share of the answers that a judge reads.",
                {"judging": judging},
            )
        )
        learning = {"judge": "main", "gate_judge": "judge", "writer": "main"}
        parts.append(
            _section(
                "Who proposes and who gates when `noria assistant learn` is run.", {"learning": learning}
            )
        )
    if pipeline := _pipeline(config):
        parts.append(_section("What acts before and while a model answers.", {"parts": pipeline}))
    if config.feed:
        feeds = {"feeds": {config.feed.stem: {"path": str(config.feed.resolve())}}}
        parts.append(_section("Products that answers show as cards.", {"products": feeds}))
    parts.append(
        _section("A test that is won waits for your word; `auto` promotes by itself.", {"promote": "ask"})
    )
    return "\n".join(parts)


def _pipeline(config: InitConfig) -> dict[str, Any]:
    pipeline: dict[str, Any] = {}
    if config.skills:
        pipeline["skills"] = {"bank": str(config.skills.resolve())}
    if config.mcp:
        names = ["tools", *[f"tools{number}" for number in range(2, len(config.mcp) + 1)]]
        pipeline["tools"] = {
            name: {"kind": "mcp", "url": url} for name, url in zip(names, config.mcp, strict=True)
        }
    return pipeline


def _section(comment: str, content: Mapping[str, Any]) -> str:
    return f"# {comment}\n{yaml_text(dict(content))}"
