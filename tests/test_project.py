"""Facts about the project itself: its pins, its wheel, its documentation, its promises to a newcomer."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import click
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import noria

ROOT = Path(__file__).resolve().parents[1]
SYSTEMS = [
    "skills",
    "routing",
    "mtp",
    "credit",
    "editing",
    "distill",
    "tryon",
    "reports",
    "grounding",
    "blending",
]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    split = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in split}


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = tuple(PROJECT["optional-dependencies"])


def requirements(package: str, extra: str) -> list[str]:
    """Requirements as pyproject.toml has them now, which an editable install may not know yet, or as installed."""
    if package != PROJECT["name"]:
        return metadata.requires(package) or []
    return PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]


def closure(*extras: str) -> set[str]:
    """Everything that installing Noria with extras brings along on this machine, by the installed packages' word."""
    seen: set[tuple[str, str]] = set()
    todo = [(PROJECT["name"], extra) for extra in ("", *extras)]
    while todo:
        package, extra = todo.pop()
        if (package, extra) in seen:
            continue
        seen.add((package, extra))
        for line in requirements(package, extra):
            wanted = Requirement(line)
            if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
                todo += [(canonicalize_name(wanted.name), e) for e in ("", *wanted.extras)]
    return {package for package, _ in seen} - {PROJECT["name"]}


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def test_what_is_installed_is_what_is_pinned() -> None:
    pinned = pins()
    installed = {name: metadata.version(name).partition("+")[0] for name in closure("all", "dev", "docs")}
    assert {name: version for name, version in installed.items() if pinned.get(name) != version} == {}


@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11) or sys.platform != "linux", reason="pins are of 3.11 on Linux"
)
def test_nothing_is_pinned_that_nothing_needs() -> None:
    assert set(pins()) - closure("all", "dev", "docs") == set()


def test_no_pin_brings_torchvision_or_cuda() -> None:
    assert not [name for name in pins() if re.match(r"nvidia|cuda|triton|torchvision|torch-fidelity", name)]


def test_the_core_and_the_command_line_install_without_a_framework() -> None:
    heavy = {"torch", "diffusers", "transformers", "scikit-learn"}
    assert heavy.isdisjoint(closure())
    assert heavy <= closure("all")


def test_the_wheel_holds_every_tracked_file_of_the_package(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry_points = archive.read(f"noria_loop-{noria.__version__}.dist-info/entry_points.txt").decode()
    source = ROOT / "src"
    assert {str(path.relative_to(source)) for path in tracked() if source in path.parents} <= names
    assert "noria/py.typed" in names
    assert f"noria_loop-{noria.__version__}.dist-info/licenses/LICENSE" in names
    assert "noria = noria.cli:main" in entry_points
    assert not [name for name in names if not name.startswith("noria")]


def test_a_wheel_is_installed_under_the_name_that_is_ours(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("noria_loop-*.whl")
    venv.create(tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "install"]
    # Everything else comes from the environment of the tests, whose own Noria the wheel's goes before.
    (packages,) = (tmp_path / "env").glob("lib/*/site-packages")
    here = os.environ | {"PYTHONPATH": os.pathsep.join([str(packages), sysconfig.get_path("purelib")])}

    def run(*words: object) -> str:
        done = subprocess.run(list(map(str, words)), cwd=tmp_path, env=here, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    run(*pip, "--no-index", "--no-deps", wheel)
    assert run(tmp_path / "env" / "bin" / "noria", "--version") == f"noria, version {noria.__version__}"
    asked = 'import importlib.metadata as m, noria; print(m.version("noria-loop"), noria.__file__)'
    assert run(python, "-c", asked) == f"{noria.__version__} {packages / 'noria' / '__init__.py'}"
    versions = "from noria.core.runs.run import package_versions as v; print(v()['noria'], 'torch' in v())"
    assert run(python, "-c", versions) == f"{noria.__version__} True"
    # The command that a message names finds what is installed, and asks no index for a package of our name.
    message = "from noria.core.errors import install_command as i; print(i('openai'))"
    command = run(python, "-c", message)
    assert command == 'pip install "noria-loop[openai]"'
    assert "Requirement already satisfied: noria-loop[openai]" in run(
        *pip, "--no-index", "noria-loop[openai]"
    )


def test_no_message_and_no_page_installs_the_package_of_another_project() -> None:
    texts = [p for p in tracked() if p.suffix in {".py", ".md", ".toml", ".yml", ".html", ""} and p.is_file()]
    stranger = re.compile(r"pip install[^\n]{0,40}[ \"']noria(?![-\w.])|noria\[[a-z]")
    named = [p.name for p in texts if p != Path(__file__) and stranger.search(p.read_text(errors="ignore"))]
    assert named == []


@pytest.mark.slow
def test_the_documentation_builds_without_a_warning_and_asks_nothing_of_the_network(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NORIA_DOCS_SEARCH": "false"}  # its index is half of the time
    done = subprocess.run(build, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    fetched = re.compile(r"""<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//""")
    pages = list(tmp_path.rglob("*.html"))
    assert pages
    assert [page.name for page in pages if fetched.search(page.read_text())] == []


def test_every_package_has_an_api_page() -> None:
    packages = {path.parent.name for path in (ROOT / "src" / "noria").glob("*/__init__.py")}
    documented = {
        package
        for page in (ROOT / "docs" / "api").glob("*.md")
        for package in re.findall(r"^::: noria\.(\w+)$", page.read_text(), flags=re.M)
    }
    assert documented == packages


def test_the_core_page_lists_the_modules_of_the_core() -> None:
    core = ROOT / "src" / "noria" / "core"
    paths = (path.relative_to(core).with_suffix("") for path in core.rglob("*.py"))
    modules = {".".join(path.parts) for path in paths if path.name != "__init__"}
    modules = {name for name in modules if not name.startswith("chat.")} | {"chat"}
    page = (ROOT / "docs" / "core.md").read_text().partition("## ")[0]
    assert set(re.findall(r"^\| `([\w.]+)` \|", page, flags=re.M)) == modules


def test_the_distillation_page_lists_the_presets() -> None:
    from noria.distill.config import PRESETS

    table = (ROOT / "docs" / "distill.md").read_text().partition("| preset | is |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([\w-]+)`", table)) == set(PRESETS)


def documented_commands() -> list[str]:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    text = "\n".join(page.read_text() for page in pages).replace("\\\n", " ")
    return sorted(set(re.findall(r"^noria .*", text, flags=re.M)))


@pytest.mark.parametrize("line", documented_commands())
def test_a_documented_command_parses(line: str) -> None:
    from noria.cli import noria as command

    words = shlex.split(line.replace("key=value ...", "seed=1"), comments=True)[1:]
    parent = None
    while isinstance(command, click.Group):
        parent = click.Context(command, parent=parent)
        name = words.pop(0)
        command = command.get_command(parent, name)
        assert command is not None, f"there is no {name}"
    command.make_context(command.name, words, parent=parent)


def test_no_tracked_file_is_above_4_mb_but_the_small_model_of_8() -> None:
    sizes = {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in tracked() if path.exists()}
    assert sizes.pop("src/noria/core/assets/lm/model.safetensors") < 8e6
    assert [name for name, size in sizes.items() if size > 4 * 2**20] == []


def test_the_readme_promises_commands_that_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    command = re.compile(r"(?m)(?:^|`)make ([a-z]+)(?= *(?:`|#|$|[A-Z]+=))")
    promised = {target for page in pages for target in command.findall(page.read_text())}
    assert {"run", "test"} <= promised <= targets


def test_the_readme_lists_the_ten_systems_as_they_are() -> None:
    rows = re.findall(r"^\| \[?`noria\.(\w+)`.*\| ([^|]+) \|$", (ROOT / "README.md").read_text(), flags=re.M)
    assert [system for system, _ in rows] == SYSTEMS
    built = [name for name in SYSTEMS if any((ROOT / "src" / "noria" / name).glob("proof*"))]
    assert [system for system, state in rows if state != "not built"] == built


def test_links_between_the_projects_pages_lead_somewhere() -> None:
    broken = []
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert broken == []


def test_the_changelog_has_this_version() -> None:
    assert re.search(
        rf"^## {re.escape(noria.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), flags=re.M
    )


def test_help_of_no_verb_loads_a_framework() -> None:
    """Frameworks take seconds to import; NumPy takes a tenth, and is left alone."""
    code = """
import importlib, pkgutil, sys
heavy = {"torch", "transformers", "diffusers", "sklearn", "scipy", "pyarrow", "duckdb", "altair", "openai", "numba"}
import noria
for system in sys.argv[1:]:
    package = importlib.import_module(f"noria.{system}.verbs")
    for module in pkgutil.iter_modules(package.__path__):
        before = heavy & sys.modules.keys()
        importlib.import_module(f"noria.{system}.verbs.{module.name}")
        for name in (heavy & sys.modules.keys()) - before:
            print(f"{system} {module.name} imports {name}")
"""
    built = sorted(path.parent.name for path in (ROOT / "src" / "noria").glob("*/verbs"))
    done = subprocess.run([sys.executable, "-c", code, *built], capture_output=True, text=True, check=True)
    assert done.stdout == ""


def test_the_site_lists_every_extra() -> None:
    page = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]*) \|", page[page.index("| extra |") :], flags=re.MULTILINE)
    assert sorted(re.findall(r"`([a-z]+)`", " ".join(rows))) == sorted(EXTRAS)
