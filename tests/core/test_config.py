from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, strategies as st
from pydantic import Field, ValidationError, model_validator

from noria.core.config import Config, load_config
from noria.core.errors import ConfigError


class Optimizer(Config):
    lr: float = Field(1e-5, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)


class Job(Config):
    name: str = "job"
    steps: int = 10
    mode: Literal["fixed", "dynamic"] = "fixed"
    limit: float | None = None
    words: tuple[str, ...] = ()
    optimizer: Optimizer = Optimizer()
    stages: tuple[Optimizer, ...] = ()

    @model_validator(mode="after")
    def _few_dynamic_steps(self) -> "Job":
        if self.mode == "dynamic" and self.steps > 100:
            raise ValueError("a dynamic job takes at most 100 steps")
        return self


class Needy(Config):
    learning_rate: float


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "job.yaml"
    file.write_text(text)
    return file


def test_an_override_beats_the_file_and_the_file_the_base(tmp_path):
    file = write(tmp_path, "steps: 2\noptimizer:\n  lr: 2e-4\n")
    job = load_config(
        Job,
        file=file,
        overrides=["steps=3"],
        base={"steps": 1, "name": "base", "optimizer": {"lr": 1.0, "betas": [0.5, 0.6]}},
    )
    assert (job.steps, job.name, job.optimizer.lr, job.optimizer.betas) == (3, "base", 2e-4, (0.5, 0.6))


def test_settings_are_frozen_and_closed_and_finite():
    with pytest.raises(ValidationError, match="frozen"):
        Job().steps = 3  # type: ignore[misc]
    with pytest.raises(ConfigError, match=r"limit: input should be a finite number"):
        load_config(Job, overrides=["limit=.nan"])


def test_merging_leaves_the_base_alone():
    base = {"optimizer": {"lr": 1.0}}
    load_config(Job, base=base, overrides=["optimizer.lr=2"])
    assert base == {"optimizer": {"lr": 1.0}}


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-5", 1e-5), ("1.5E+3", 1500.0), ("-.5", -0.5), ("3", 3.0), ("null", None), ("", None), ("~", None)],
)
def test_numbers_are_read_as_yaml_1_2_reads_them(text, value):
    assert load_config(Job, overrides=[f"limit={text}"]).limit == value


def test_words_that_yaml_1_1_would_change_stay_words():
    words = ["on", "no", "12:30", "2026-01-01", "0777", "0x10", "1_000"]
    assert load_config(Job, overrides=[f"words=[{', '.join(words[:4])}]"]).words == tuple(words[:4])
    assert load_config(Job, overrides=["words=['0777', '0x10', '1_000']"]).words == tuple(words[4:])


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_written_as_python_writes_it_comes_back(value):
    assert load_config(Job, overrides=[f"limit={value!r}"]).limit == value


@given(
    st.builds(
        Job,
        name=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20),
        steps=st.integers(1, 100),
        mode=st.sampled_from(["fixed", "dynamic"]),
        limit=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_a_file_of_settings_dumped_as_json_gives_the_same_settings(tmp_path_factory, job):
    file = tmp_path_factory.mktemp("round") / "job.yaml"
    file.write_text(job.model_dump_json())
    assert load_config(Job, file=file) == job


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nstepz: 2\n", "job.yaml:1: unknown field 'a' (and 1 more); choose from limit, mode, name,"),
        ("steps: 1\nstepz: 2\n", "job.yaml:2: unknown field 'stepz'; did you mean 'steps'?"),
        (
            "optimizer:\n  lr: 1\n  bets: 2\n",
            "job.yaml:3: unknown field 'optimizer.bets'; did you mean 'betas'?",
        ),
        ("optimizer:\n  lr: -1\n", "job.yaml:2: optimizer.lr: input should be greater than 0, got -1"),
        ("stages:\n- lr: 1\n- lr: x\n", "job.yaml:3: stages.1.lr: input should be a valid number,"),
        ("mode: dynamical\n", "did you mean 'dynamic'?"),
        ("mode: dynamic\nsteps: 200\n", "job.yaml: a dynamic job takes at most 100 steps"),
        ("steps: 1\nsteps: 2\n", "job.yaml:2:1: 'steps' is given twice; keep one of them"),
        ("steps: [1\n", "job.yaml:2:1: not YAML: "),
        (
            "steps: !!python/object:os.system x\n",
            "job.yaml:1:8: the tag !!python/object:os.system is not read",
        ),
        ("- 1\n", "job.yaml:1: expected `field: value` lines"),
        ("steps: &a [*a]\n", "an alias that contains itself"),
    ],
)
def test_a_bad_file_is_told_in_one_line(tmp_path, text, line):
    with pytest.raises(ConfigError) as raised:
        load_config(Job, file=write(tmp_path, text))
    message = str(raised.value)
    assert line in message
    assert "\n" not in message


def test_a_misspelt_required_field_is_told_as_misspelt_not_as_missing(tmp_path):
    with pytest.raises(
        ConfigError, match=r"unknown field 'learning_rat' \(and 1 more\); did you mean 'learning_rate'"
    ):
        load_config(Needy, file=write(tmp_path, "learning_rat: 1\n"))
    with pytest.raises(ConfigError, match=r"learning_rate is missing"):
        load_config(Needy)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps", "override 'steps': expected key.sub=value"),
        ("=3", "override '=3': expected key.sub=value"),
        ("optimizer..lr=3", "expected key.sub=value"),
        ("steps=many", "override 'steps=many': steps: input should be a valid integer"),
        ("optimizer.lr=0", "override 'optimizer.lr=0': optimizer.lr: input should be greater than 0, got 0"),
        ("optimizer=3", "override 'optimizer=3': optimizer: input should be"),
        ("steps=[1", "override 'steps=[1': not YAML"),
        ("steps.more=1", "override 'steps.more=1': steps: input should be a valid integer"),
    ],
)
def test_a_bad_override_is_told_with_its_own_text(override, message):
    with pytest.raises(ConfigError) as raised:
        load_config(Job, overrides=[override])
    assert message in str(raised.value)


def test_the_override_is_blamed_when_the_file_was_fine(tmp_path):
    with pytest.raises(ConfigError, match=r"^override 'optimizer.lr=-1'"):
        load_config(Job, file=write(tmp_path, "optimizer: {lr: 1}\n"), overrides=["optimizer.lr=-1"])
    with pytest.raises(ConfigError, match=r"^override 'optimizer=\{lr: -1\}'"):
        load_config(Job, file=write(tmp_path, "optimizer: {lr: 1}\n"), overrides=["optimizer={lr: -1}"])
    with pytest.raises(ConfigError, match=r"job\.yaml:1: optimizer\.betas"):
        load_config(Job, file=write(tmp_path, "optimizer: {betas: 1}\n"), overrides=["optimizer={lr: 1}"])


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read \(No such file"):
        load_config(Job, file=tmp_path / "absent.yaml")
    file = tmp_path / "latin.yaml"
    file.write_bytes(b"steps: 1\nname: caf\xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml:2:10: not UTF-8"):
        load_config(Job, file=file)
    file.write_bytes(b"#" * 1_000_001)
    with pytest.raises(ConfigError, match="more than 1,000,000 bytes"):
        load_config(Job, file=file)


def test_a_bomb_of_aliases_does_not_go_off(tmp_path):
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(ConfigError, match="more than"):
        load_config(Job, file=write(tmp_path, "\n".join(rows)))
