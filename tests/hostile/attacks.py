"""Runs a verb on a hostile version of one of its inputs, in this process, and says what is wrong with its end."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from noria.cli import main
from tests.hostile.good_files import CALLS, FILE
from tests.hostile.hostile_files import Version, versions

LONGEST = 60
"""Seconds after which a verb hangs."""


@dataclass(frozen=True)
class Attack:
    """One input of one verb in one hostile version.

    Attributes:
        verb: system and verb.
        name: name of the good file.
        inner: path of the file inside the input, where that is a folder; "." for the input itself.
        version: name of the version, and what makes it.
    """

    verb: str
    name: str
    inner: str
    version: Version

    def __str__(self) -> str:
        return f"{self.verb} {self.name} {self.inner} {self.version[0]}"


def attacks(home: Path, verb: str) -> Iterator[Attack]:
    """Every attack on a verb."""
    for name in sorted({name for _, name in FILE.findall(CALLS[verb])}):
        good = home / name
        for version in versions(good):
            yield Attack(verb, name, ".", version)
        if good.is_dir():
            for path in sorted(p for p in good.rglob("*") if p.is_file()):
                for version in versions(path):
                    yield Attack(verb, name, str(path.relative_to(good)), version)


@dataclass(frozen=True)
class End:
    """How a call ended: its exit code, or the exception, and what it printed and left."""

    code: int | None
    out: str
    err: str
    left: list[str]
    trace: str = ""

    def fault(self) -> str | None:
        """What is wrong with it, if anything."""
        if self.trace:
            return self.trace
        if self.code not in (0, 1, 2):
            return f"exit code {self.code}: {self.err}"
        if self.code == 2:
            lines = [line for line in self.err.splitlines() if not line.startswith("noria: warning")]
            if len(lines) != 1 or not lines[0].startswith("noria: error: "):
                return f"not one line: {self.err[-2000:]}"
            if self.left:
                return f"left behind: {', '.join(self.left[:5])} ({lines[0]})"
        return None


def call(
    verb: str, home: Path, here: Path, url: str, inputs: dict[str, Path] | None = None, *more: str
) -> End:
    """Call a verb on good files, or on others in the place of some of them, in the folder `here`."""
    given = inputs or {}
    line = FILE.sub(lambda m: str(given.get(m[2], home / m[2])), CALLS[verb]).replace("URL", url)
    before = os.getcwd()
    os.chdir(here)
    out, err = io.StringIO(), io.StringIO()
    code, trace = None, ""
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), limit(LONGEST):
            main([*verb.partition("#")[0].split(), *line.split(), *more])
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:  # also a KeyboardInterrupt out of a time limit
        trace = traceback.format_exc()
    finally:
        os.chdir(before)
    left = [str(p.relative_to(here)) for p in sorted(here.glob("out/**/*")) if p.is_file()]
    left += [str(p.relative_to(here)) for p in sorted(here.glob("runs/**/*")) if p.is_file()]
    return End(code, out.getvalue(), err.getvalue(), left, trace)


@contextlib.contextmanager
def limit(seconds: int) -> Iterator[None]:
    """End what runs longer by a TimeoutError. The alarm itself belongs to pytest's own limit."""

    def ring(*_: object) -> None:
        raise TimeoutError(f"it hangs: more than {seconds} s")

    earlier = signal.signal(signal.SIGUSR1, ring)
    main_thread = threading.main_thread().ident or 0
    clock = threading.Timer(seconds, signal.pthread_kill, (main_thread, signal.SIGUSR1))
    clock.start()
    try:
        yield
    finally:
        clock.cancel()
        signal.signal(signal.SIGUSR1, earlier)


def copied(name: str, home: Path, here: Path) -> Path:
    """Copy a good input into the folder `here`: some verbs write into what they read."""
    copy = here / "in" / name.replace("/", "-")
    copy.parent.mkdir(exist_ok=True)
    if copy.exists():
        return copy
    if (home / name).is_dir():
        shutil.copytree(home / name, copy)
    else:
        shutil.copyfile(home / name, copy)
    return copy


def call_good(verb: str, home: Path, here: Path, url: str) -> End:
    """Call a verb on copies of its good files."""
    inputs = {name: copied(name, home, here) for _, name in FILE.findall(CALLS[verb])}
    return call(verb, home, here, url, inputs)


def attack(one: Attack, home: Path, here: Path, url: str) -> End:
    """Attack in an empty folder `here`."""
    copy = copied(one.name, home, here)
    one.version[1](copy if one.inner == "." else copy / one.inner)
    return call(one.verb, home, here, url, {one.name: copy})
