"""The files of `deploy/` fit one another: settings, services, tokens, files that are mounted."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from noria.assistant.config import AssistantConfig
from noria.core.config import load_config

DEPLOY = Path(__file__).parents[2] / "deploy"


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "compose.yaml").read_text()))


def test_the_settings_are_a_gateways_and_name_what_compose_gives() -> None:
    config = load_config(AssistantConfig, file=DEPLOY / "noria.yaml")
    services = compose()["services"]
    environment = services["gateway-1"]["environment"]
    wanted = [config.control_env, *(caller.token_env for caller in config.callers)]
    assert {name for name in wanted if name} <= set(environment)
    for url in [*config.peers, *(backend.url for backend in config.backends.values())]:
        host = re.fullmatch(r"https?://([\w-]+):\d+(/v1)?", url)
        assert host is not None
        assert host[1] in services
    assert any(str(config.versions) == one.split(":")[1] for one in services["gateway-1"]["volumes"])


def test_what_is_mounted_is_there() -> None:
    content = compose()
    for name, service in content["services"].items():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if source.startswith("./"):
                kept = (
                    DEPLOY / source
                ).exists() or source == "./secret"  # the secret is the operator's to make
                assert kept, f"{name}: {source}"
            else:
                assert source in content["volumes"], f"{name}: {source}"


def test_only_the_balancer_listens_and_on_loopback() -> None:
    listening = {name: one["ports"] for name, one in compose()["services"].items() if "ports" in one}
    assert listening == {"balancer": ["127.0.0.1:8000:80"]}


def test_the_image_installs_extras_that_exist() -> None:
    import tomllib

    extras = re.search(r"ARG EXTRAS=(\S+)", (DEPLOY / "Dockerfile").read_text())
    assert extras is not None
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]
    assert set(extras[1].split(",")) <= set(project["optional-dependencies"])


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="there is no docker-compose")
def test_compose_reads_it(tmp_path: Path) -> None:
    command = ["docker-compose", "-f", str(DEPLOY / "compose.yaml"), "config", "-q"]
    tokens = {"NORIA_TOKEN": "a", "SHOP_TOKEN": "b", "POSTGRES_PASSWORD": "c"}
    done = subprocess.run(command, env=os.environ | tokens, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    missing = subprocess.run(
        command, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False
    )
    assert missing.returncode != 0, "without the tokens nothing starts"
