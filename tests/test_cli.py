"""The command as a user types it: real processes, what they print where, and how they exit."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest

import noria

# What the console script does, with systems that are there for the test.
SCRIPT = """
import sys
import noria, noria.cli
noria.__path__.append({systems!r})
sys.path.insert(0, {systems!r})
noria.cli.SYSTEMS.update(toy="a toy", false="untrue", crashing="a fault", diverging="no end")
noria.cli.SYSTEMS.update(slow="sleeps", needy="needs")
if __name__ == "__main__":
    noria.cli.main()
"""

TOY_PROOF = """
from noria.core.proofs.proof import Claim, Evidence

def prove(context):
    def claim(name, ours, theirs):
        return Claim(id=name, statement=f"The {name} one", metric="error", better="lower",
                     subject="ours", baseline="theirs", arms={"ours": ours, "theirs": theirs})
    seeds = context.seeds or [0, 1, 2]
    rising = [float(s) for s in seeds]
    return Evidence("toy", [
        claim("good", rising, [x + 2 + x / 100 for x in rising]),
        claim("bad", [x + 2 + x / 100 for x in rising], rising),
        claim("open", rising, list(reversed(rising))),
    ], 0.5, {"python": "3"}, config={"scale": context.scale, "workers": context.workers})
"""

TOY_BENCH = """
from noria.core.proofs.bench import Benchmark, Row

def benchmarks(*, rounds=4):
    return Benchmark("toy", [
        Row.of("samples", "the plain loop", "samples/s", [3.0] * rounds, [2.0] * rounds, better="higher", goal=1.4),
        Row.of("start", "the plain loop", "s", [1.0], [1.1], better="lower", goal=2),
    ])
"""

TOY_CLI = """
import click
from noria.core.errors import DataError

@click.group()
def group():
    "Verbs of the toy."

@group.command()
def spoil():
    "Meet bad input."
    raise DataError("not a digit", where="digits.csv:3", mend="remove it")
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Runs `noria …` with the toy systems mounted."""
    home = tmp_path_factory.mktemp("cli")
    for name, files in {
        "toy": {"proof/claims": TOY_PROOF, "proof/bench": TOY_BENCH, "verbs/__init__": TOY_CLI},
        "false": {
            "proof/claims": "from noria.core.proofs.proof import Check, Evidence\n"
            "def prove(context):\n"
            "    return Evidence('false', [], 0.1, {}, checks=[Check('mass', 'Mass is one', False, 'off by .2')])\n"
        },
        "crashing": {"proof/claims": "def prove(context):\n    raise ZeroDivisionError('a fault')\n"},
        "diverging": {
            "proof/claims": "from noria.core.errors import DivergenceError\n"
            "def prove(context):\n    raise DivergenceError('the loss is NaN', where='step 3')\n"
        },
        "slow": {
            "proof/claims": "import time\ndef prove(context):\n"
            "    context.progress.say('asleep')\n    time.sleep(100)\n"
        },
        "needy": {"proof/bench": "import absent_package\n"},
    }.items():
        (home / name / "proof").mkdir(parents=True)
        (home / name / "__init__.py").touch()
        (home / name / "proof" / "__init__.py").write_text(
            "from noria.core.proofs.catalogue import BenchEntry, ProofEntry\n"
            f"PROOFS = (ProofEntry({name!r}, 'noria.{name}.proof.claims'),)\n"
            f"BENCHES = (BenchEntry({name!r}, 'noria.{name}.proof.bench'),)\n"
        )
        for module, text in files.items():
            file = home / name / f"{module}.py"
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
    script = home / "noria_with_toys.py"
    script.write_text(SCRIPT.format(systems=str(home)))

    def start(*arguments, **more):
        return subprocess.Popen(
            [sys.executable, str(script), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **more,
        )

    def run(*arguments, **more):
        child = start(*arguments, **more)
        out, err = child.communicate(timeout=120)
        return subprocess.CompletedProcess(arguments, child.returncode, out, err)

    run.start = start
    return run


def assert_one_line(done, code, message):
    assert done.returncode == code
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("noria: error: ")
    assert message in last
    assert "Traceback" not in done.stderr


# --- help ----------------------------------------------------------------------------------------------------


def test_the_installed_command_tells_its_version():
    out = subprocess.run(
        ["noria", "--version"], capture_output=True, text=True, check=True, env=environment()
    )
    assert out.stdout == f"noria, version {noria.__version__}\n"


def test_help_names_the_verbs_and_the_built_systems(command):
    done = command("--help")
    assert done.returncode == 0
    for name in ("prove", "bench", "distill", "toy"):
        assert re.search(rf"^  {name} ", done.stdout, re.MULTILINE)
    assert "toys" not in done.stdout  # what is not built has no verb
    assert done.stderr == ""


def test_help_imports_no_system_and_nothing_heavy():
    code = (
        "import sys, noria.cli\n"
        "try: noria.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "names = ('torch', 'numpy', 'scipy', 'altair', 'rich', 'jinja2', 'pydantic', 'noria.distill')\n"
        "print([name for name in names if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"


def test_help_of_the_gateway_imports_no_arrays_and_no_server():
    code = (
        "import sys, noria.cli\n"
        "try: noria.cli.main(['serve', '--help'])\n"
        "except SystemExit: pass\n"
        "names = ('torch', 'numpy', 'scipy', 'openai', 'starlette', 'aiohttp', 'duckdb')\n"
        "print([name for name in names if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"


def test_it_starts_at_once():
    """In processor time, the least of several: what else the machine does must not matter."""

    def seconds(*arguments):
        def once():
            child = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
            _, status, used = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            assert child.returncode == 0
            return used.ru_utime + used.ru_stime

        return min(once() for _ in range(5))

    assert seconds("-c", "import noria") < 0.3
    assert seconds("-m", "noria.cli", "--help") < 0.5


def environment():
    scripts = os.path.dirname(sys.executable)
    return {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}


# --- prove ---------------------------------------------------------------------------------------------------


def test_prove_prints_the_verdicts_and_where_the_report_is(command, tmp_path):
    done = command("prove", "toy", cwd=tmp_path)
    assert done.returncode == 0, done.stderr  # a refuted claim is a finding, not a failure
    for verdict, name in (("supported", "good"), ("refuted", "bad"), ("inconclusive", "open")):
        assert re.search(rf"^ *{verdict} +The {name} one$", done.stdout, re.MULTILINE)
    assert re.search(r"ours against theirs: \+2\.01 \[\+1\.9\d*, \+2\.0\d*\]", done.stdout)
    out = tmp_path / "runs" / "prove" / "quick"
    assert "runs/prove/quick/report.html" in done.stdout
    assert "The good one" in (out / "report.html").read_text()
    assert json.loads((out / "evidence.json").read_text())[0]["config"]["scale"] == "quick"
    assert "toy" in done.stderr  # progress


def test_a_failed_check_is_printed_and_is_the_exit_code(command, tmp_path):
    done = command("prove", "false", cwd=tmp_path)
    assert done.returncode == 1
    assert "CHECK FAILS   Mass is one: off by .2" in done.stdout
    assert done.stderr.splitlines()[-1].endswith("false/mass: a check of what must hold failed")
    assert (tmp_path / "runs" / "prove" / "quick" / "evidence.json").exists()


def test_prove_json_prints_evidence_json_and_nothing_else(command, tmp_path):
    done = command(
        "prove", "toy", "--full", "--json", "--seeds", 4, "--workers", 1, "--out", tmp_path / "here"
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed == json.loads((tmp_path / "here" / "evidence.json").read_text())
    assert printed[0]["config"] == {"scale": "full", "workers": 1}
    assert printed[0]["claims"][0]["arms"]["ours"] == [0.0, 1.0, 2.0, 3.0]
    assert (tmp_path / "here" / "report.html").exists()


def test_full_and_quick_go_to_folders_of_their_own(command, tmp_path):
    assert command("prove", "toy", "--full", cwd=tmp_path).returncode == 0
    assert [path.name for path in (tmp_path / "runs" / "prove").iterdir()] == ["full"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prove", "weaving"], "no proof 'weaving'; choose from "),
        (["prove", "--seeds", "0"], "Invalid value for '--seeds'"),
        (["prove", "--workers", "many"], "'many' is not a valid integer"),
        (["prove", "--slow"], "No such option"),
        (["bench"], "Missing argument 'NAME'"),
        (["bench", "nothing"], "no bench 'nothing'"),
        (["bench", "needy"], "the package 'absent_package' is not installed; mend it with: pip install"),
        (["nonsense"], "No such command 'nonsense'"),
        (["toy", "spoil"], "digits.csv:3: not a digit; remove it"),
        (["toy", "nonsense"], "No such command 'nonsense'"),
    ],
)
def test_bad_input_is_one_line_and_exit_2_and_writes_nothing(command, tmp_path, arguments, message):
    done = command(*arguments, cwd=tmp_path)
    assert_one_line(done, 2, message)
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_cannot_be_is_one_line(command, tmp_path):
    (tmp_path / "file").write_text("kept")
    assert_one_line(
        command("prove", "toy", "--out", tmp_path / "file" / "x"), 2, "cannot write: Not a directory"
    )
    assert_one_line(command("prove", "toy", "--out", tmp_path / "file"), 2, "is a file")
    assert (tmp_path / "file").read_text() == "kept"


def test_a_failed_check_exits_1(command, tmp_path):
    assert_one_line(command("prove", "diverging", cwd=tmp_path), 1, "step 3: the loss is NaN")


def test_a_fault_keeps_its_traceback(command, tmp_path):
    done = command("prove", "crashing", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError: a fault" in done.stderr


def test_ctrl_c_exits_130_without_a_traceback(command, tmp_path):
    child = command.start("prove", "slow", cwd=tmp_path)
    for line in child.stderr:
        if "asleep" in line:
            break
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert err.strip() == "noria: interrupted"


def test_a_reader_who_leaves_early_meets_no_traceback(command, tmp_path):
    child = command.start("prove", "toy", "--json", cwd=tmp_path)
    child.stdout.close()
    with child.stderr:
        assert "Traceback" not in child.stderr.read()
    assert child.wait(timeout=60) != 0


def noria_process(*arguments, **more):
    return subprocess.run(
        [sys.executable, "-m", "noria.cli", *arguments], capture_output=True, timeout=120, **more
    )


@pytest.mark.parametrize(
    "variables",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
)
def test_a_terminal_without_utf_8_shows_escapes(tmp_path, variables):
    (tmp_path / "prompts.yaml").write_text('show: "\u00e9\U0001f600"\n')
    arguments = ("distill", "presets", "--config", "prompts.yaml")
    done = noria_process(*arguments, cwd=tmp_path, env=os.environ | variables)
    assert done.returncode == 2
    assert b"noria: error: " in done.stderr
    assert b"Traceback" not in done.stderr
    done = noria_process("grounding", "score", "--help", cwd=tmp_path, env=os.environ | variables)
    assert done.returncode == 0, done.stderr


def test_an_argument_that_is_no_text_is_one_line(tmp_path):
    done = noria_process("routing", "route", "router", b"caf\xe9", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == b"noria: error: QUESTION: not text: bytes that are not UTF-8; give it in UTF-8\n"


def test_a_closed_output_is_no_fault(tmp_path):
    (tmp_path / "text.yaml").write_text("show: cdm\n")
    for closed in (">&-", "2>&-", "| head -c 1"):
        command = f"{sys.executable} -m noria.cli distill presets --config text.yaml {closed}"
        done = subprocess.run(["sh", "-c", command], capture_output=True, cwd=tmp_path, timeout=120)
        assert b"Traceback" not in done.stderr
        assert b"Exception ignored" not in done.stderr


def test_a_narrow_terminal_gets_its_help(tmp_path):
    done = noria_process("mtp", "train", "--help", cwd=tmp_path, env=os.environ | {"COLUMNS": "40"})
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr


# --- bench, systems ------------------------------------------------------------------------------------------


def test_bench_prints_a_table_with_what_was_promised_and_whether_it_held(command):
    done = command("bench", "toy")
    assert done.returncode == 0, done.stderr
    head, samples, start = done.stdout.splitlines()
    assert re.split(r"  +", head) == ["figure", "ours", "peer's", "peer", "ratio", "range", "goal"]
    assert re.split(r"  +", samples) == [
        "samples (samples/s)",
        "3",
        "2",
        "the plain loop",
        "1.50x",
        "1.50-1.50",
        "1.4x met",
    ]
    assert re.split(r"  +", start)[-3:] == ["1.10x", "1.10-1.10", "2x missed"]


def test_bench_json_prints_the_rows(command):
    done = command("bench", "toy", "--json", "--rounds", 2)
    printed = json.loads(done.stdout)
    assert printed["system"] == "toy"
    assert [row["ratio"] for row in printed["rows"]] == pytest.approx([1.5, 1.1])


def test_a_systems_own_verbs_are_mounted(command):
    done = command("toy", "--help")
    assert done.returncode == 0
    assert "Verbs of the toy." in done.stdout
    assert "spoil" in done.stdout
