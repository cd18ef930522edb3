import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from noria.core import errors
from noria.core.errors import (
    DataError,
    DivergenceError,
    MissingExtra,
    NoriaError,
    install_command,
    require,
    ungrouped,
)


def test_an_error_is_one_line_in_the_order_where_what_mend():
    error = NoriaError("no such\n  preset 'x'", where="a.yaml:3", mend="choose cdm")
    assert str(error) == "a.yaml:3: no such preset 'x'; choose cdm"
    assert str(NoriaError("what alone")) == "what alone"


@pytest.mark.parametrize(
    "error",
    [
        errors.ConfigError("bad", where="a.yaml:3", mend="mend it"),
        MissingExtra("diffusers", "distill"),
    ],
)
def test_an_error_crosses_a_process_boundary_unchanged(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.__dict__ == error.__dict__


def test_bad_input_exits_2_and_a_failed_check_1():
    kinds = {
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, NoriaError)
    }
    assert len(kinds) == 11
    assert {kind for kind in kinds if kind.exit_code != 2} == {DivergenceError, errors.CheckError}
    assert DivergenceError.exit_code == 1


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (DataError("not a number", where="seed", mend="give one"), "seed: not a number; give one"),
        (DataError("not UTF-8", where="/srv/noria/a.jsonl:3"), "a.jsonl:3: not UTF-8"),
        (DataError("no picture", where="http://10.0.0.7/v1"), "no picture"),
        (
            errors.ServedError("the server answered 503", where="http://10.0.0.7/v1"),
            "the server answered 503",
        ),
        (
            errors.RunError("Traceback: postgres://admin:hunter2@db", where="http://10.0.0.7/v1"),
            "what it needs does not serve now; the service's log says why",
        ),
        (
            errors.ModelError("server: hunter2", where="m"),
            "a model that it needs gave no answer; the service's log says why",
        ),
        (
            errors.ConfigError("the variable KEY is not set", where="/etc/noria.yaml"),
            "the service is not set up for it; the service's log says why",
        ),
        (MissingExtra("diffusers", "distill"), "it failed; the service's log says why"),
    ],
)
def test_a_caller_reads_its_own_mistake_and_no_address_path_or_foreign_word(error, line):
    assert errors.caller_line(error) == line


def test_require_returns_the_module():
    assert require("json.decoder", "distill").JSONDecoder


def test_require_names_the_package_and_the_extra_that_mend_it(tmp_path, monkeypatch):
    (tmp_path / "present_module.py").write_text("import absent_package.part\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in ("absent_package", "present_module"):
        with pytest.raises(MissingExtra, match=r"'absent_package' is not installed; .*\[distill\]\""):
            require(module, "distill")


def test_the_command_that_installs_an_extra_is_that_of_a_checkout_or_of_a_wheel(tmp_path, monkeypatch):
    root = Path(errors.__file__).parents[3]
    assert install_command("credit") == f'pip install -e "{root}[credit]"'
    for folder, command in {
        "env/lib/python3.11/site-packages": 'pip install "noria-loop[credit]"',
        "src": f'pip install -e "{tmp_path}[credit]"',
    }.items():
        monkeypatch.setattr(errors, "__file__", str(tmp_path / folder / "noria" / "core" / "errors.py"))
        (tmp_path / "pyproject.toml").touch()
        assert install_command("credit") == command


def test_require_lets_faults_that_installing_would_not_mend_through(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("from json import no_such_name\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ImportError, match="no_such_name"):
        require("broken_module", "distill")
    with pytest.raises(ModuleNotFoundError, match="no_such_system"):
        require("noria.no_such_system", "distill")


def test_the_light_modules_import_nothing_heavy():
    code = (
        "import sys, noria, noria.core.errors, noria.core.config, noria.core.progress\n"
        "print([m for m in ('torch', 'numpy', 'scipy', 'altair', 'rich', 'jinja2') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_task_group_that_ended_by_our_errors_raises_the_first():
    with pytest.raises(DataError, match="first"), ungrouped():
        raise ExceptionGroup("tasks", [ExceptionGroup("inner", [DataError("first")]), DataError("second")])
    with pytest.raises(ExceptionGroup), ungrouped():  # a fault keeps its traceback
        raise ExceptionGroup("tasks", [DataError("first"), ZeroDivisionError()])
