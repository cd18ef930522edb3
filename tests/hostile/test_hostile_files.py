"""Verbs × hostile files: whatever a file holds, a verb reads it, or refuses it in one line with exit code 2.

The verbs are found by walking the command, so that a new verb that takes a path fails here until it has a good call.
"""

from __future__ import annotations

import fcntl
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import noria.cli
from noria.verbs.command import ConfigCommand
from tests.chat_server import chat_server
from tests.grounding.test_runner import answer
from tests.hostile import attacks
from tests.hostile.attacks import Attack, attack, call, call_good
from tests.hostile.good_files import CALLS, FILE, READ_NOTHING, make_good_files

for _package in ("torch", "transformers", "gguf", "duckdb", "pyarrow", "openai", "av"):
    pytest.importorskip(_package)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SEED = int(os.environ.get("NORIA_HOSTILE_SEED", "0"))
"""Seed of the attacks that are drawn; another seed draws others."""
DRAWN = dict.fromkeys(
    (
        "mtp",
        "credit",
        "distill",
        "tryon",
        "blending fit",
        "blending attribute",
        "blending report",
        "routing report",
        "grounding report",
    ),
    6,
)
"""Number of attacks by verb or system, where a call takes long; 24 of the others."""
PROCESSES = 24
FREE = {"house", "fonts", "report"}
"""Fields that take any text: a style sheet, a folder of fonts, Markdown of any system."""
WRITTEN = {"output", "cache", "folder", "versions", "scores", "junit", "sarif", "renders_cache"}
"""Fields of paths that are written, not read."""


@pytest.fixture(scope="session", name="url")
def _url() -> Iterator[str]:
    with chat_server(lambda body, number: answer(body)) as double:
        yield double.url


@pytest.fixture(scope="session", name="home")
def _home(tmp_path_factory: pytest.TempPathFactory, url: str) -> Path:
    """The good files, made once for all workers, with a copy of the pools for this worker's server."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "good-files"
    shared.mkdir(exist_ok=True)
    with (shared.parent / "good-files.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / ".done").exists():
            make_good_files(shared, lambda *arguments: _run(arguments, url))
            (shared / ".done").touch()
    home = tmp_path_factory.mktemp("home")
    for path in shared.iterdir():
        if path.name.endswith("pool.yaml"):
            (home / path.name).write_text(re.sub('"url": "[^"]*"', f'"url": "{url}"', path.read_text()))
        elif path.name != ".done":
            (home / path.name).symlink_to(path)
    return home


def _run(arguments: tuple[object, ...], url: str) -> None:
    with pytest.raises(SystemExit) as ended:
        noria.cli.main([url if one == "URL" else str(one) for one in arguments])
    assert not ended.value.code, arguments


@pytest.fixture(autouse=True)
def _no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that would start is one that could read its files."""
    monkeypatch.setattr("noria.core.service.hosting.serve", lambda *args, **options: None)
    for system in ("routing", "blending", "assistant"):
        monkeypatch.setattr(f"noria.{system}.service.process.serve", lambda *args, **options: None)
    monkeypatch.setattr("noria.skills.integrations.mcp.run_server", lambda server: None)


def commands(command: click.Command, name: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every verb below a group, with the words that call it."""
    if not isinstance(command, click.Group):
        yield name, command
        return
    context = click.Context(command)
    for word in command.list_commands(context):
        inner = command.get_command(context, word)
        assert inner is not None
        yield from commands(inner, f"{name} {word}".strip())


def test_every_verb_that_reads_a_file_is_here() -> None:
    for name, verb in commands(noria.cli.noria):
        if not isinstance(verb, ConfigCommand):
            assert name in ("prove", "bench", "assets"), name
            continue
        calls = [line for key, line in CALLS.items() if key.partition("#")[0] == name]
        assert bool(calls) != (name in READ_NOTHING), f"{name} needs a good call in CALLS"
        given = {field for line in calls for field, _ in FILE.findall(line)}
        for field, about in verb.config.model_fields.items():
            if "Path" in str(about.annotation):
                assert field in given | WRITTEN, f"{name}: a call in CALLS should give {{{field}=…}}"


def drawn(home: Path, verb: str) -> list[Attack]:
    """Some attacks on a verb: half of them of the inputs themselves, half of fields and of files inside."""
    number = next((n for name, n in DRAWN.items() if verb.startswith(name)), 24)
    every = list(attacks.attacks(home, verb))
    generator = random.Random(f"{SEED} {verb}")
    whole = [one for one in every if one.inner == "." and "=" not in one.version[0]]
    parts = [one for one in every if one not in whole]
    return [one for group in (whole, parts) for one in generator.sample(group, min(len(group), number // 2))]


@pytest.mark.parametrize("verb", CALLS)
def test_a_hostile_file_is_read_or_refused_in_one_line(
    home: Path, url: str, tmp_path: Path, verb: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attacks, "LONGEST", 300)  # what the verb imports is imported now
        good = call_good(verb, home, _folder(tmp_path / "good"), url)
    assert good.fault() is None
    faults = {}
    for number, one in enumerate(drawn(home, verb)):
        fault = attack(one, home, _folder(tmp_path / str(number)), url).fault()
        if fault:
            faults[str(one)] = fault
    assert not faults, "\n\n".join(f"{name}\n{fault}" for name, fault in faults.items())


WRITERS = [verb for verb in CALLS if "-o out/" in CALLS[verb] and "#" not in verb]


@pytest.mark.parametrize("verb", WRITERS)
def test_an_output_that_cannot_be_written_is_refused_in_one_line(
    home: Path, url: str, tmp_path: Path, verb: str
) -> None:
    (tmp_path / "out").write_text("kept")  # a file where the folder of the output should be
    end = call(verb, home, tmp_path, url)
    assert end.fault() in (None, f"left behind: out ({end.err.strip()})")
    assert end.code == 2
    assert (tmp_path / "out").read_text() == "kept"


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_a_hostile_file_is_refused_by_a_real_process(home: Path, tmp_path: Path) -> None:
    """As a user meets it: a process of its own, that ends, with one line and nothing written."""
    verbs = [
        verb
        for verb in CALLS
        if not verb.startswith(("mtp", "credit", "distill")) and "URL" not in CALLS[verb]
    ]
    generator = random.Random(SEED)
    for number in range(PROCESSES):
        verb = verbs[number % len(verbs)]
        parsed = [pair for pair in FILE.findall(CALLS[verb]) if pair[0] not in FREE]
        if not parsed:
            continue
        field, name = generator.choice(parsed)
        here = _folder(tmp_path / str(number))
        bad = here / Path(name).name
        which, make = generator.choice([v for v in attacks.versions(home / "token.txt") if v[0] not in LEGAL])
        bad.touch()
        make(bad)
        given = {field: bad}
        line = FILE.sub(lambda m, given=given: str(given.pop(m[1], home / m[2])), CALLS[verb])
        done = subprocess.run(
            [sys.executable, "-m", "noria.cli", *verb.partition("#")[0].split(), *line.split()],
            capture_output=True,
            text=True,
            cwd=here,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )
        about = f"{verb} {field}={which}: {done.stderr[-1500:]}"
        assert done.returncode == 2, about
        assert re.fullmatch(r"noria: error: [^\n]+\n", done.stderr), about
        assert done.stdout == "", about
        assert not (here / "out").exists(), about


LEGAL = {
    "a byte-order mark",
    "CRLF",
    "CR",
    "cut in half",
    "cut at the end",
    "cut at the start",
    "twice",
    "an empty object",
}
"""Versions that some verb reads."""
