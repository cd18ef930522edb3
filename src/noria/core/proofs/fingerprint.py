"""A digest of the code that a measured number depends on: what a module imports, and what those modules import.

A proof remembers each measured arm under this digest. A change of a page, a verb or a docstring leaves it as it is; a
change of any function that the arm can reach does not.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

_OUTSIDE = ("noria.core.progress", "noria.core.runs.workers", "noria.core.proofs", "noria.core.pages")
"""Modules that show, spread and store work, and change no number."""


def code_digest(module: str) -> str:
    """A digest of a module, of all of the project's modules that it reaches, and of their packages' assets.

    Docstrings, comments and layout do not count.

    Args:
        module: dotted name, such as `noria.credit.proof.arms`; one outside of the project counts alone.
    """
    digest = hashlib.sha256()
    homes: set[Path] = set()
    for name in sorted(reached_modules(module)):
        file = _file(name)
        if file is None:
            continue
        digest.update(name.encode() + b"\0" + _meaning(file, file.stat().st_mtime_ns).encode())
        homes.update(parent / "assets" for parent in file.parents if (parent / "assets").is_dir())
    for home in sorted(homes):
        for file in sorted(path for path in home.glob("**/*") if path.is_file()):
            digest.update(str(file.relative_to(home)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def reached_modules(module: str) -> set[str]:
    """Dotted names of the project's modules that a module imports, directly or not, itself among them.

    Imports inside functions count, those for type checking do not.
    """
    top = module.partition(".")[0]
    reached: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = _file(name)
        if name in reached or file is None or name.startswith(_OUTSIDE):
            continue
        reached.add(name)
        waiting += [imported for imported in _imports(file, name) if imported.partition(".")[0] == top]
    return reached | {module}


def _file(name: str) -> Path | None:
    """Source of a module; None where there is no such module, or it is no Python file.

    Found by its path: `find_spec` would import the packages above it, and with them a framework.
    """
    top, *below = name.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or (below and not spec.submodule_search_locations):
        return None
    if not below:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for root in sys.modules[top].__path__ if top in sys.modules else spec.submodule_search_locations or []:
        place = Path(root, *below)
        for file in (place / "__init__.py", place.with_name(f"{place.name}.py")):
            if file.is_file():
                return file
    return None


def _imports(file: Path, name: str) -> Iterator[str]:
    """Names that may be modules, in the imports of a file."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in _running(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes of a tree without what stands under `if TYPE_CHECKING`."""
    if isinstance(tree, ast.If) and "TYPE_CHECKING" in ast.dump(tree.test):
        for branch in tree.orelse:
            yield from _running(branch)
        return
    yield tree
    for node in ast.iter_child_nodes(tree):
        yield from _running(node)


@functools.lru_cache(maxsize=4096)
def _meaning(file: Path, changed: int) -> str:
    """The syntax tree of a file without its docstrings; `changed` is the file's time, so that an edit is seen."""
    tree = ast.parse(file.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [item for item in node.body if not _is_text(item)] or [ast.Pass()]
    return ast.dump(tree)


def _is_text(node: ast.stmt) -> bool:
    """Whether a statement is only a string: a docstring, or the text beneath a constant."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
