import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch

from noria.core.digests import digest_of
from noria.core.errors import CheckpointError, DataError, RunError
from noria.core.files import inside, lock, write_all, write_atomic
from noria.core.runs.checkpoints import restore_rng
from noria.core.runs.run import Run, latest_checkpoint, package_versions, read_config, read_metrics, settled


def start(code: str, *arguments: object, **kwargs) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- round trips ---------------------------------------------------------------------------------------------


def test_a_checkpoint_comes_back_as_it_went_whatever_the_tensor(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "float": torch.randn(3, 5),
        "bf16": torch.randn(7).bfloat16(),
        "whole": torch.tensor([1, -2, 3]),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
        "transposed": base.T,
        "row": base[1],  # shares memory with `base` and `transposed`, as tied weights do
        "base": base,
        "parameter": torch.nn.Parameter(torch.randn(2)),
    }
    with Run.open(tmp_path / "run", config={}) as run:
        run.save(3, tensors, {"cursor": [1, 2], "name": "x"})
        checkpoint = run.latest()
    assert checkpoint.step == 3
    assert checkpoint.state == {"cursor": [1, 2], "name": "x"}
    assert checkpoint.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert checkpoint.tensors[name].dtype == tensor.dtype
        assert torch.equal(checkpoint.tensors[name], tensor.detach())


def test_every_random_state_comes_back(tmp_path):
    def draw():
        return (
            random.random(),
            random.gauss(0, 1),
            np.random.normal(),
            np.random.rand(),
            torch.randn(3).tolist(),
        )

    random.gauss(0, 1)  # leaves a second value pending: a state that the seed alone does not give
    np.random.normal()
    with Run.open(tmp_path / "run", config={}) as run:
        run.save(1, {}, {})
        first = draw()
        assert draw() != first
        restore_rng(run.latest())
    assert draw() == first


def test_only_the_newest_checkpoints_stay(tmp_path):
    with Run.open(tmp_path / "run", config={}) as run:
        for step in (1, 2, 10, 3):
            run.save(step, {"x": torch.full((2,), float(step))}, {}, keep=2)
        assert sorted(os.listdir(tmp_path / "run" / "checkpoints")) == ["step-00000003", "step-00000010"]
        run.save(10, {"x": torch.zeros(2)}, {"again": True})
        assert run.latest().state == {"again": True}
        with pytest.raises(ValueError, match="keep no checkpoint"):
            run.save(11, {}, {}, keep=0)


def test_what_json_lacks_is_logged_as_missing_not_as_a_number(tmp_path):
    with Run.open(tmp_path / "run", config={}) as run:
        run.log(
            1, loss=float("nan"), scale=torch.tensor(float("inf")), count=np.int64(3), mean=np.float32(0.5)
        )
        run.log(2, names=["a", "b"], row=torch.tensor([1.0, float("nan")]), nothing=None, fine=True)
        with pytest.raises(TypeError, match="a object cannot be written as JSON"):
            run.log(3, what=object())
        assert run.metrics() == [
            {"step": 1, "loss": None, "scale": None, "count": 3, "mean": 0.5},
            {"step": 2, "names": ["a", "b"], "row": [1.0, None], "nothing": None, "fine": True},
        ]
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_a_run_remembers_its_settings_and_every_set_of_versions(tmp_path):
    folder = tmp_path / "run"
    for versions in ({"torch": "1"}, {"torch": "2"}, {"torch": "2"}):
        Run.open(folder, config={"lr": 1e-5, "steps": (1, 2)}, versions=versions).close()
    assert read_config(folder) == {"lr": 1e-5, "steps": [1, 2]}
    assert json.loads((folder / "versions.json").read_text()) == [{"torch": "1"}, {"torch": "2"}]
    with pytest.raises(RunError, match="no run here"):
        read_config(tmp_path)


def test_versions_name_what_a_result_depends_on():
    versions = package_versions()
    assert versions["torch"] == torch.__version__
    assert versions["numpy"] == np.__version__
    assert {"python", "noria"} <= versions.keys()
    assert "pytest" not in versions


# --- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"lr": 1e-5, "net": {"width": 4}},
            r"made with net.width=3, now it is 4; set net.width=3 to resume it",
        ),
        (
            {"lr": 1e-5, "net": {}},
            "made with a setting net.width, and this version has none; give another folder",
        ),
        (
            {"lr": 1e-5, "net": {"width": 3}, "new": 1},
            "made with no setting new, and this version has one; give another folder",
        ),
    ],
)
def test_other_settings_are_refused_naming_the_first_field_that_differs(tmp_path, given, message):
    folder = tmp_path / "run"
    Run.open(folder, config={"lr": 1e-5, "net": {"width": 3}}).close()
    before = files(folder)
    with pytest.raises(RunError, match=message):
        Run.open(folder, config=given)
    assert files(folder) == before
    Run.open(folder, config={"lr": 1e-5, "net": {"width": 3}}).close()  # a refusal holds no lock


def test_a_run_whose_folder_was_copied_resumes_under_the_name_it_was_made_with(tmp_path):
    first, copy = tmp_path / "first", tmp_path / "copy"
    data = tmp_path / "data.txt"
    data.write_text("x")

    def opened(folder):
        identity = settled(folder, {"name": folder.name, "lr": 0.1}, {"data": (str(data), "digest")})
        return Run.open(folder, config=identity)

    with opened(first) as run:
        run.save(1, {"x": torch.ones(1)}, {})
    shutil.copytree(first, copy)
    data = data.rename(tmp_path / "moved.txt")
    with opened(copy) as run:
        assert run.latest().step == 1
    assert read_config(copy) == read_config(first)


def test_two_processes_cannot_write_one_run(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from noria.core.runs.run import Run\n"
        "run = Run.open(Path(sys.argv[1]), config={}); print('open', flush=True); time.sleep(60)"
    )
    folder = tmp_path / "run"
    child = start(code, folder)
    try:
        assert child.stdout.readline() == "open\n"
        with pytest.raises(RunError, match=rf"in use by another process \({child.pid}\)"):
            Run.open(folder, config={})
        Run.open(folder, config={}, writer=False).close()  # the other ranks of a distributed job only read
    finally:
        child.kill()
        child.wait()
    Run.open(folder, config={}).close()  # the lock died with its process


def test_within_a_process_a_run_is_opened_once_too(tmp_path):
    with lock(tmp_path), pytest.raises(RunError, match=str(os.getpid())), lock(tmp_path):
        pass


def test_a_rank_that_does_not_write_leaves_no_trace_and_reads_the_checkpoint(tmp_path):
    folder = tmp_path / "run"
    other = Run.open(folder, config={}, writer=False)
    other.log(1, loss=1.0)
    other.save(1, {}, {})
    assert not folder.exists()
    with Run.open(folder, config={}) as run:
        run.save(4, {"x": torch.ones(1)}, {})
        assert other.latest().step == 4


@pytest.mark.parametrize(
    "name",
    ["../x", "a/../../x", "/etc/passwd", "", ".", "link/x", "loop/x", "a\0b", "{root}/a"],
)
def test_a_path_from_data_cannot_leave_its_folder(tmp_path, name):
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    (root / "loop").symlink_to(root / "loop")
    with pytest.raises(DataError, match="does not stay inside") as raised:
        inside(root, name.format(root=root))
    assert "\n" not in str(raised.value)


def test_a_path_that_stays_inside_is_given_whole(tmp_path):
    assert inside(tmp_path, "a/b.png") == tmp_path.resolve() / "a" / "b.png"
    assert inside(tmp_path, "a/../b.png") == tmp_path.resolve() / "b.png"
    assert inside(tmp_path, "..a") == tmp_path.resolve() / "..a"


# --- crashes -------------------------------------------------------------------------------------------------

# A job as the trainers are: it draws from every generator, logs each step, saves every third, goes on from the last.
JOB = """
import os, random, signal, sys
from pathlib import Path
import numpy as np, torch
from noria.core.runs.checkpoints import restore_rng
from noria.core.runs.run import Run
folder, steps, die = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
with Run.open(folder, config={"steps": steps}) as run:
    random.seed(0); np.random.seed(0); torch.manual_seed(0)
    x, first = torch.zeros(4), 1
    if (c := run.latest()) is not None:
        restore_rng(c); x = c.tensors["x"]; first = c.step + 1
    for step in range(first, steps + 1):
        x += torch.randn(4) * random.random() + float(np.random.rand())
        run.log(step, mean=x.mean(), first=float(x[0]))
        if step == die:
            os.kill(os.getpid(), signal.SIGKILL)
        if step % 3 == 0:
            run.save(step, {"x": x}, {})
"""


def test_a_job_killed_again_and_again_writes_the_log_of_an_uninterrupted_one(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(JOB, whole, 9, 0).wait() == 0
    for die in (1, 6, 8):  # before any checkpoint, in the step of one, after one
        assert start(JOB, killed, 9, die).wait() == -signal.SIGKILL
    assert start(JOB, killed, 9, 0).wait() == 0
    assert (killed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert len(read_metrics(whole)) == 9
    final = "checkpoints/step-00000009/tensors.safetensors"
    assert (killed / final).read_bytes() == (whole / final).read_bytes()


def test_kill_9_in_the_middle_of_a_save_costs_nothing_saved_before(tmp_path):
    code = (
        "import sys, torch; from pathlib import Path; from noria.core.runs.run import Run\n"
        "run = Run.open(Path(sys.argv[1]), config={}); c = run.latest(); step = c.step if c else 0\n"
        "while True:\n"
        "    step += 1; run.log(step, s=step); x = torch.full((4_000_000,), float(step))\n"
        "    run.save(step, {'x': x}, {'s': step})\n"
    )
    folder, reached, interrupted = tmp_path / "run", 0, 0
    for _ in range(4):
        child = start(code, folder)
        home = folder / "checkpoints"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and child.poll() is None:
            if list(home.glob(f"step-{reached + 1:08d}")) and list(home.glob(".step-*.partial-*")):
                break
        child.kill()
        child.wait()
        interrupted += bool(list(home.glob(".step-*.partial-*")))
        with Run.open(folder, config={}) as run:
            checkpoint = run.latest()
            assert checkpoint.step > reached
            assert bool((checkpoint.tensors["x"] == checkpoint.step).all())
            assert checkpoint.state == {"s": checkpoint.step}
            assert [record["step"] for record in run.metrics()] == list(range(1, checkpoint.step + 1))
            assert all(path.name.startswith("step-") for path in home.iterdir())
            reached = checkpoint.step
    assert interrupted >= 1


def test_a_checkpoint_being_replaced_when_the_process_died_comes_back(tmp_path):
    with Run.open(tmp_path, config={}) as run:
        path = run.save(5, {"x": torch.ones(1)}, {})
    path.rename(path.with_name(".step-00000005.old-1"))
    with Run.open(tmp_path, config={}) as run:
        assert run.latest().step == 5


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / "state.json").unlink(),
        lambda path: (path / "state.json").write_text("{"),
        lambda path: (path / "state.json").write_text("[]"),
        lambda path: (path / "tensors.safetensors").unlink(),
        lambda path: os.truncate(path / "tensors.safetensors", 40),
        lambda path: (path / "tensors.safetensors").write_bytes(
            b"\0" * (path / "tensors.safetensors").stat().st_size
        ),
    ],
)
def test_a_damaged_checkpoint_is_skipped_aloud_and_the_log_cut_to_the_one_before(tmp_path, damage):
    with Run.open(tmp_path, config={}) as run:
        for step in (1, 2, 3):
            run.log(step, loss=1.0)
            path = run.save(step, {"x": torch.ones(8)}, {}, keep=3)
    damage(path)
    with pytest.warns(UserWarning, match=r"step-00000003: damaged: .*; it is skipped"):
        assert latest_checkpoint(tmp_path).step == 2
    with pytest.warns(UserWarning, match="skipped"):
        run = Run.open(tmp_path, config={})
    with run:
        assert [record["step"] for record in run.metrics()] == [1, 2]
        run.save(3, {"x": torch.ones(8)}, {}, keep=3)
        assert run.latest().step == 3


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "digests.sha256"])
def test_one_flipped_bit_anywhere_in_a_checkpoint_takes_the_one_before(tmp_path, name):
    with Run.open(tmp_path, config={}) as run:
        for step in (1, 2):
            path = run.save(step, {"x": torch.randn(40), "optimizer.x.exp_avg": torch.randn(40)}, {"n": 7})
    whole = (path / name).read_bytes()
    draw = random.Random(0)
    for bit in draw.sample(range(8 * len(whole)), 30):
        flip(path / name, bit)
        with pytest.warns(UserWarning, match=r"step-00000002: damaged: .*; it is skipped"):
            assert latest_checkpoint(tmp_path).step == 1
        (path / name).write_bytes(whole)
    assert latest_checkpoint(tmp_path).step == 2


def test_a_checkpoint_without_its_digests_is_damaged_and_one_of_a_version_without_them_is_not(tmp_path):
    with Run.open(tmp_path, config={}) as run:
        path = run.save(1, {"x": torch.ones(8)}, {})
    (path / "digests.sha256").unlink()
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(CheckpointError, match="every checkpoint"):
        latest_checkpoint(tmp_path)
    record = json.loads((path / "state.json").read_text())
    record["tensors_bytes"] = (path / "tensors.safetensors").stat().st_size
    (path / "state.json").write_text(json.dumps(record))
    assert latest_checkpoint(tmp_path).step == 1


def test_where_every_checkpoint_is_damaged_nothing_starts_over_and_nothing_is_cut(tmp_path):
    with Run.open(tmp_path, config={}) as run:
        for step in (1, 2):
            run.log(step, loss=1.0)
            flip(run.save(step, {"x": torch.ones(8)}, {}) / "tensors.safetensors", -9)
    before = files(tmp_path)
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(CheckpointError, match="every checkpoint"):
        Run.open(tmp_path, config={})
    assert files(tmp_path) == before


def test_a_damaged_checkpoint_is_set_aside_and_takes_the_place_of_no_good_one(tmp_path):
    with Run.open(tmp_path, config={}) as run:
        for step in (90, 100):
            path = run.save(step, {"x": torch.ones(8)}, {})
    flip(path / "tensors.safetensors", -9)
    with pytest.warns(UserWarning, match="skipped"):
        run = Run.open(tmp_path, config={})
    with run:
        for step in (95, 105):
            run.save(step, {"x": torch.ones(8)}, {}, keep=2)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000095", "step-00000100.damaged", "step-00000105"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda lines: lines[:-4], r"was cut: \d+ of the \d+ bytes"),
        (lambda lines: lines[:3] + lines[4:], "was cut"),
        (lambda lines: [], "was cut: 0 of the"),
        (lambda lines: [lines[0].replace(b"1.0", b"2.0"), *lines[1:]], "was changed"),
    ],
)
def test_a_log_that_lost_or_changed_lines_says_so_when_it_is_read_or_resumed(tmp_path, change, what):
    with Run.open(tmp_path, config={}) as run:
        for step in range(1, 11):
            run.log(step, loss=1.0)
        run.save(10, {"x": torch.ones(8)}, {})
    log = tmp_path / "metrics.jsonl"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_metrics(tmp_path)) == 10
        Run.open(tmp_path, config={}).close()
    log.write_bytes(b"".join(change(log.read_bytes().splitlines(keepends=True))))
    with pytest.warns(UserWarning, match=what):
        read_metrics(tmp_path)
    with pytest.warns(UserWarning, match=what):
        Run.open(tmp_path, config={}).close()
    log.unlink()
    with pytest.warns(UserWarning, match="was cut: 0 of the"):
        read_metrics(tmp_path)


def test_a_file_is_hashed_once_a_process_unless_it_was_touched(tmp_path, monkeypatch):
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"a")
    first = digest_of(file)
    times = file.stat()
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("hashed again"))
    assert digest_of(file) == first
    monkeypatch.undo()
    file.write_bytes(b"b")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # the time of a change cannot be set back
    assert digest_of(file) != first


def test_a_torn_last_line_is_left_out_and_the_next_line_starts_clean(tmp_path):
    with Run.open(tmp_path, config={}) as run:
        run.log(1, loss=1.0)
        run.save(1, {}, {})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "lo')
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 1.0}]
    with Run.open(tmp_path, config={}) as run:
        run.log(2, loss=2.0)
        assert [record["step"] for record in run.metrics()] == [1, 2]


def test_a_line_that_is_damaged_elsewhere_is_told_with_its_number(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnot json\n{"step": 3}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl:2: not a metrics line"):
        read_metrics(tmp_path)


def test_without_a_checkpoint_the_log_starts_over(tmp_path):
    with Run.open(tmp_path, config={}) as run:
        run.log(0, loss=1.0)
    with Run.open(tmp_path, config={}) as run:
        assert run.metrics() == []


# --- a full disk ---------------------------------------------------------------------------------------------

# Fills up in the log, in a checkpoint's tensors, in a plain file; says what each failure said and what it left.
FULL = """
import json, sys
from pathlib import Path
import torch
from noria.core.errors import RunError
from noria.core.files import write_atomic
from noria.core.runs.run import Run
folder = Path(sys.argv[1])
said = []
with Run.open(folder, config={}) as run:
    run.log(1, loss=1.0)
    run.save(1, {"x": torch.ones(10)}, {})
    if len(sys.argv) > 2:
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    for attempt in (
        lambda: run.save(2, {"x": torch.ones(4_000_000)}, {}),
        lambda: run.save(3, {}, {"x": "y" * 9_000_000}),
        lambda: write_atomic(folder / "report.html", b"x" * 9_000_000),
        lambda: run.log(2, text="x" * 9_000_000),
    ):
        try:
            attempt()
        except RunError as error:
            said.append(str(error))
    left = sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))
    run.log(2, loss=2.0)
    print(json.dumps([said, left, run.latest().step, [r["step"] for r in run.metrics()]]))
"""


def check_full(out: str, reason: str) -> None:
    said, left, latest, steps = json.loads(out)
    assert len(said) == 4
    assert all(f"cannot write: {reason}; free some space" in line and "\n" not in line for line in said)
    assert left == sorted(
        [
            ".lock",
            "checkpoints",
            "checkpoints/step-00000001",
            "checkpoints/step-00000001/digests.sha256",
            "checkpoints/step-00000001/state.json",
            "checkpoints/step-00000001/tensors.safetensors",
            "config.json",
            "metrics.jsonl",
            "versions.json",
        ]
    )
    assert latest == 1
    assert steps == [1, 2]


def test_a_file_too_large_is_told_and_leaves_nothing_half_written(tmp_path):
    child = start(FULL, tmp_path / "run", "limited")
    out, err = child.communicate()
    assert child.returncode == 0, err
    check_full(out, "File too large")


def test_a_full_disk_is_told_and_leaves_nothing_half_written(tmp_path):
    mount = [
        "unshare",
        "-Urm",
        "sh",
        "-c",
        'mount -t tmpfs -o size=4m tmpfs "$0" && exec "$@"',
        str(tmp_path),
    ]
    if subprocess.run([*mount, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip(
            "this machine lets no user mount a small disk; the limit on a file's size stands in for it above"
        )
    out = subprocess.run(
        [*mount, sys.executable, "-c", FULL, tmp_path / "run"], capture_output=True, text=True, check=False
    )
    assert out.returncode == 0, out.stderr
    check_full(out.stdout, "No space left on device")


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"file/run: cannot write: Not a directory"):
        Run.open(tmp_path / "file" / "run", config={})


def test_an_atomic_write_replaces_whole_and_keeps_the_usual_permissions(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    write_atomic(path, "old")
    write_atomic(path, "new €")
    (tmp_path / "plain").touch()
    assert path.read_text() == "new €"
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert os.listdir(path.parent) == ["file.txt"]


def test_a_partial_write_is_carried_on():
    ours, theirs = os.pipe()
    os.set_blocking(ours, True)
    data = os.urandom(1_000_000)  # a pipe takes 64 kB at a time
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        write_all(theirs, data)
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        assert pipe.read() == data
    assert os.waitpid(pid, 0)[1] == 0
