"""What holds for every test: one thread a worker, and a reason for each one that this machine cannot run."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings

# Before anything imports numpy or PyTorch: pytest-xdist's workers share the cores, and inherit this.
for _library in ("OMP", "MKL", "OPENBLAS"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

# How long an example takes says more about the machine than about the code.
settings.register_profile("noria", deadline=None)
settings.load_profile("noria")

# A shell that runs the suite in the background has it ignore Ctrl-C, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def find_browser() -> str | None:
    """A Chromium on this machine, if there is one."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def has_gpu() -> bool:
    """Whether PyTorch sees an accelerator."""
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of Chromium, for playwright's `executable_path`; a test that takes it is a `browser` test."""
    path = find_browser()
    assert path, "no Chromium"
    return path


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    """Chromium under playwright, for the tests of a module."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(name="here")
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that commands run in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(name="noria")
def _noria(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> Callable[..., SimpleNamespace]:
    """A system's verbs as a user calls them; the system is the one that the test's folder is named for."""
    from noria.cli import main

    def run(*arguments: object) -> SimpleNamespace:
        with pytest.raises(SystemExit) as ended:
            main([request.path.parent.name, *map(str, arguments)])
        said = capsys.readouterr()
        return SimpleNamespace(code=ended.value.code, out=said.out, err=said.err)

    return run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "chromium" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")
    # CI has to run them all: .ci/run installs Chromium, and without it these tests fail there instead of skipping.
    if not find_browser() and os.environ.get("CI") != "true":
        _skip(items, "browser", "no Chromium here (apt-get install chromium)")
    if any(item.get_closest_marker("gpu") for item in items) and not has_gpu():
        _skip(items, "gpu", "no accelerator here")


def _skip(items: list[pytest.Item], marker: str, reason: str) -> None:
    for item in items:
        if item.get_closest_marker(marker):
            item.add_marker(pytest.mark.skip(reason=reason))
