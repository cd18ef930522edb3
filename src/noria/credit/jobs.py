"""The jobs behind the verbs of `noria credit`: from what a user typed to files on disk.

Everything that a user can get wrong is checked before the first file is written. A job says how far it is on stderr and
returns what there is to tell; it prints no answer itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from noria.core.errors import ConfigError, DataError
from noria.core.files import write_atomic
from noria.core.models.loading import LanguageModel, open_language_model, save_language_model
from noria.core.progress import Progress, Task
from noria.core.records import json_values
from noria.core.runs.checkpoints import fingerprint
from noria.core.runs.outputs import check_run_folder, is_run, results_folder
from noria.core.runs.run import Run, read_config, read_metrics, save_settings, settled
from noria.core.statistics.intervals import Interval, paired_difference
from noria.core.training.loop import training
from noria.credit.answers import finder, token_span
from noria.credit.config import NAMES, CreditConfig, TrainConfig
from noria.credit.credit import TokenCredit
from noria.credit.masking import MaskTest, Operator, mask_test, reasoned
from noria.credit.pages import write_compare_page, write_mask_page, write_run_page, write_trace_page
from noria.credit.rollout import sample
from noria.credit.settings import resolve_credit
from noria.credit.small import small_folder
from noria.credit.tasks import Question, prompt_ids, read_questions
from noria.credit.trace import Trace, trace
from noria.credit.trainer import CreditTrainer, Learned

__all__ = ["Trained", "compare", "mask", "trace_responses", "train"]

SMALL = {"small": "reasoner", "small-start": "start"}
"""Models that ship with this package, by the names that a user gives."""


def open_policy(
    name: str,
    *,
    precision: str = "fp32",
    allow_download: bool = False,
    trust_remote_code: bool = False,
) -> LanguageModel:
    """A model by folder, GGUF file, hub id, `small` or `small-start`.

    Raises:
        ModelError: there is no such model, or it is of another kind.
    """
    path = str(small_folder(SMALL[name])) if name in SMALL else name  # type: ignore[arg-type]
    return open_language_model(
        path, precision=precision, allow_download=allow_download, trust_remote_code=trust_remote_code
    )


# -- traces -----------------------------------------------------------------------------------------------------------


def trace_responses(
    model: str,
    data: str,
    output: str | None,
    config: CreditConfig,
    *,
    number: int = 3,
    share: float = 0.8,
    max_new_tokens: int = 256,
    seed: int = 0,
    precision: str = "fp32",
    allow_download: bool = False,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> tuple[list[tuple[str, Trace]], Path]:
    """Trace responses and write their page, `trace.html`, with `trace.json` beside it.

    A record's own `response` is traced where it has one; otherwise the model answers, greedily.

    Args:
        model: a folder, GGUF file, hub id, or `small`.
        data: a file of questions, `chains`, or `gym:FAMILY`.
        output: folder of the page; `trace-MODEL` by default.
        config: of the flow and the weights.
        number: of responses.
        share: of the flow that the backbone carries.
        max_new_tokens: of a response that is written here.
        seed: of questions that are made.
        precision: of the weights.
        allow_download: whether a hub model may be fetched.
        trust_remote_code: whether code that comes with the model may run.
        progress: where to say how far it is.

    Returns:
        Traces by heading, and the page.

    Raises:
        NoriaError: anything that a user can mend; nothing was written then.
    """
    if config.signal != "flow":
        raise ConfigError(
            f"{config.signal} has no flow to trace",
            where="--credit",
            mend=f"choose from {', '.join(n for n in NAMES if n.startswith('flow'))}",
        )
    if not 0 < share <= 1:
        raise ConfigError(f"{share} is no share", where="--share", mend="give a number above 0 and up to 1")
    folder = results_folder(output, f"trace-{_stem(model)}")
    questions = read_questions(data, number=number, seed=seed)
    policy = open_policy(
        model, precision=precision, allow_download=allow_download, trust_remote_code=trust_remote_code
    )
    find = finder(config.answer)
    TokenCredit(config).check(policy.model)
    with progress or Progress(quiet=True) as said:
        prompts, responses = _responses(policy, questions, max_new_tokens, said, own=True)
        task = said.task("trace", len(questions))
        found: list[tuple[str, Trace]] = []
        for place, (prompt, response) in enumerate(zip(prompts, responses, strict=True), start=1):
            span = token_span(response, policy.tokenizer, find)
            one = trace(policy.model, policy.tokenizer, prompt, response, config, span, share=share)
            found.append((f"Response {place}", one))
            task.advance()
        task.done()
    folder.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {"model": model, "data": data, "settings": config.model_dump(mode="json")}
    record["traces"] = [one.to_json() for _, one in found]
    write_atomic(folder / "trace.json", json.dumps(json_values(record), ensure_ascii=False) + "\n")
    page = write_trace_page(
        folder / "trace.html",
        found,
        intro=f"Responses to {data}, read by {model}: the attention of layers "
        f"{', '.join(map(str, found[0][1].layers))}, followed from the question to the answer.",
    )
    return found, page


def _responses(
    policy: LanguageModel, questions: Sequence[Question], new: int, said: Progress, *, own: bool
) -> tuple[list[list[int]], list[list[int]]]:
    """Ids of prompts and responses; with `own`, a question's own response where it has one."""
    tokenizer, model = policy.tokenizer, policy.model
    prompts = [prompt_ids(question, tokenizer) for question in questions]
    responses: list[list[int]] = [
        list(tokenizer(q.solution, add_special_tokens=False)["input_ids"]) if own and q.given else []
        for q in questions
    ]
    todo = [n for n, ids in enumerate(responses) if not ids]
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    task = said.task("answer", len(todo))
    for start in range(0, len(todo), 32):
        part = todo[start : start + 32]
        done = sample(
            model,
            [prompts[n] for n in part],
            new=new,
            temperature=0.0,
            eos=[] if eos is None else [int(eos)],
            pad=int(pad if pad is not None else eos or 0),
        )
        for n, rollout in zip(part, done, strict=True):
            responses[n] = rollout.tokens
        task.advance(len(part))
    if todo:
        task.done()
    return prompts, responses


# -- training ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """What a training leaves.

    Attributes:
        folder: the run's.
        report: its page.
        model: the policy as `from_pretrained` opens it; None where its kind cannot be written.
        step: made in all.
        reward: of the last steps, a tenth of them.
    """

    folder: Path
    report: Path
    model: Path | None
    step: int
    reward: float | None


def train(
    config: TrainConfig,
    folder: Path,
    *,
    allow_download: bool = False,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> Trained:
    """Train a policy by GRPO with credit, or go on training it, in `folder`, and write its page and the policy.

    Args:
        config: the settings.
        folder: the run's; made if need be.
        allow_download: whether a hub model may be fetched.
        trust_remote_code: whether code that comes with the model may run.
        progress: where to say how far it is.

    Raises:
        NoriaError: anything that a user can mend; nothing was written then, or the last checkpoint is whole.
        DivergenceError: the run blew up.
    """
    check_run_folder(folder)
    if is_run(Path(config.model or "").expanduser()):
        raise ConfigError("it is a run, not a model", where="--model", mend="give the model folder inside it")
    questions = read_questions(config.data or "", number=config.questions, seed=config.seed)
    policy = open_policy(
        config.model or "",
        precision=config.precision,
        allow_download=allow_download,
        trust_remote_code=trust_remote_code,
    )
    trainer = CreditTrainer(policy.model, policy.tokenizer, questions, config)
    trainer.credit.check(policy.model)
    inputs = {
        "model": (str(config.model), fingerprint(policy.model)),
        "data": (str(config.data), _content(questions)),
    }
    identity = settled(folder, config.model_dump(mode="json", exclude={"steps"}), inputs)
    with progress or Progress(quiet=True) as said, Run.open(folder, config=identity) as run:
        save_settings(folder, config)
        some = Path(config.data or "").is_file() and len(questions) == config.questions
        more = ", as many as questions= lets be read" if some else ""
        said.say(f"{len(questions):,} questions{more}")
        with training(run, said, config.steps, page=write_run_page) as task:
            trainer.train(run, on_step=_watch(said, task, config.answer))
        model = _written(policy, folder / "model")
        page = write_run_page(folder)
        rewards = [row["reward"] for row in run.metrics()]
    late = rewards[-max(1, len(rewards) // 10) :]
    return Trained(folder, page, model, trainer.step, sum(late) / len(late) if late else None)


def _watch(said: Progress, task: Task, answer: str) -> Callable[[Learned], None]:
    """Tells every step's reward, and once that answers are not found."""
    warned = False

    def watch(learned: Learned) -> None:
        nonlocal warned
        figures = learned.figures
        fallback = figures.get("credit/fallback", 0.0)
        if not warned and (figures["answered"] < 0.5 or fallback > 0.5):
            warned = True
            said.say(
                f"warning: step {learned.step}: an answer was found in {figures['answered']:.0%} of the responses "
                f"(answer={answer}), and {fallback:.0%} of those learned from share credit evenly"
            )
        task.at(
            learned.step,
            f"reward {figures['reward']:.3f}" + (f", fallback {fallback:.0%}" if fallback else ""),
        )

    return watch


def _written(policy: LanguageModel, folder: Path) -> Path | None:
    """The policy as a folder; None where transformers refuses to write its kind (weights out of a GGUF file)."""
    with contextlib.suppress(ValueError):
        save_language_model(policy.model, policy.tokenizer, folder)
        return folder
    return None


def _content(questions: Sequence[Question]) -> str:
    """A fingerprint of questions and answers."""
    digest = hashlib.sha256()
    for question in questions:
        prompt = question.prompt if isinstance(question.prompt, str) else json.dumps(question.prompt)
        digest.update(f"{len(prompt)}:{prompt}{question.answer}\0".encode())
    return digest.hexdigest()[:16]


# -- the mask test ----------------------------------------------------------------------------------------------------


def mask(
    model: str,
    data: str,
    output: str | None,
    *,
    names: Sequence[str],
    ends: Sequence[str] = ("top", "bottom"),
    answer: str = "auto",
    overrides: Sequence[str] = (),
    fraction: float = 0.2,
    operator: Operator = "hide",
    number: int = 100,
    own: bool = False,
    max_new_tokens: int = 256,
    batch_size: int = 32,
    seed: int = 0,
    precision: str = "fp32",
    allow_download: bool = False,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], Path]:
    """Test scores by masking and write `mask-test.html`, with `mask-test.json` beside it.

    Args:
        model: a folder, GGUF file, hub id, or `small`.
        data: a file of questions, `chains`, or `gym:FAMILY`.
        output: folder of the results; `mask-test-MODEL` by default.
        names: of credit whose scores are tested.
        ends: `top`, `bottom`.
        answer: name of the finder.
        overrides: settings of every credit, `key=value` each.
        fraction: of the reasoning tokens that is masked.
        operator: how.
        number: of questions.
        own: test responses of the data instead of the model's own.
        max_new_tokens: of a response that is written here.
        batch_size: answers written together.
        seed: of questions that are made, and of what is random.
        precision: of the weights.
        allow_download: whether a hub model may be fetched.
        trust_remote_code: whether code that comes with the model may run.
        progress: where to say how far it is.

    Returns:
        The results as they are in `mask-test.json`, and the page.

    Raises:
        NoriaError: anything that a user can mend; nothing was written then.
    """
    if set(ends) - {"top", "bottom"} or not ends:
        raise ConfigError(f"{', '.join(ends)!r} are no ends", where="--ends", mend="give top, bottom or both")
    find, credits = finder(answer), {name: resolve_credit(name, overrides) for name in names}
    if not 0 < fraction < 1:
        raise ConfigError(f"{fraction} is no share", where="--fraction", mend="give a number between 0 and 1")
    if "ktae" in {credit.signal for credit in credits.values()}:
        raise ConfigError(
            "ktae compares the rollouts of a group, and here is one a question",
            where="--names",
            mend="leave it out",
        )
    folder = results_folder(output, f"mask-test-{_stem(model)}")
    questions = read_questions(data, number=number, seed=seed)
    if own and not all(question.given for question in questions):
        raise DataError(
            "a record has no response", where=data, mend="leave --own out, or give a response in each"
        )
    policy = open_policy(
        model, precision=precision, allow_download=allow_download, trust_remote_code=trust_remote_code
    )
    for credit in credits.values():
        TokenCredit(credit).check(policy.model)
    with progress or Progress(quiet=True) as said:
        prompts, responses = _responses(policy, questions, max_new_tokens, said, own=own)
        rows, left = reasoned(questions, prompts, responses, policy.tokenizer, find)
        if not rows:
            reasons = ", ".join(f"{reason} in {n}" for reason, n in left.items())
            raise DataError(
                f"none of {len(questions)} responses can be tested: {reasons}",
                where=data,
                mend="give an --answer that finds it, or more --max-new-tokens",
            )
        task = said.task("mask", len(rows) * (2 + len(names) * len(ends)))
        found = mask_test(
            policy.model,
            policy.tokenizer,
            rows,
            credits,
            ends=ends,
            find=find,
            fraction=fraction,
            operator=operator,
            left_out=left,
            batch_size=batch_size,
            seed=seed,
            on_batch=lambda written: task.at(written),
        )
        task.done()
    results = json_values({"model": model, "data": data, **mask_record(found, seed)})
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "mask-test.json", json.dumps(results, indent=1) + "\n")
    return results, write_mask_page(folder / "mask-test.html", results)


def mask_record(found: MaskTest, seed: int) -> dict[str, Any]:
    """JSON values of a mask test."""
    generator = np.random.default_rng(seed)
    return {
        "questions": found.questions,
        "left_out": dict(found.left_out),
        "fraction": found.fraction,
        "operator": found.operator,
        "right": found.right,
        "tokens": found.tokens,
        "rows": [
            {
                "name": row.name,
                "end": row.end,
                "changed": _interval(row.rate("changed", generator)),
                "flipped": _interval(row.rate("flipped", generator)),
            }
            for row in found.rows
        ],
        "against_random": {
            row.name: _interval(found.against_random(row.name))
            for row in found.rows
            if row.end == "top" and row.name != "random"
        },
    }


# -- trainings compared -----------------------------------------------------------------------------------------------

NOT_COMPARED = {"name", "credit", "credit_settings", "seed", "steps", "checkpoint_every", "data_fingerprint"}


def compare(
    folders: Sequence[Path], output: str | None, *, baseline: str | None = None
) -> tuple[dict[str, Any], Path]:
    """Compare trainings by credit, paired by seed, and write `compare.html`, with `compare.json` beside it.

    Args:
        folders: of runs.
        output: folder of the results; `compare` by default.
        baseline: the credit that others are compared with; `none` where there is one, else the first run's.

    Raises:
        NoriaError: anything that a user can mend; nothing was written then.
    """
    results_to = results_folder(output, "compare")
    if len(folders) < 2:
        raise ConfigError(
            "there is nothing to compare one run with", where="compare", mend="give two runs or more"
        )
    if lost := [str(folder) for folder in folders if not folder.is_dir()]:
        raise DataError("no such folder", where=", ".join(lost))
    runs: list[tuple[str, int, list[float], float]] = []
    configs = []
    for folder in folders:
        config, rows = read_config(folder), read_metrics(folder)
        rewards = [float(row["reward"]) for row in rows if row.get("reward") is not None]
        if "credit" not in config or not rewards:
            raise DataError("no run of noria credit train, or nothing was logged yet", where=str(folder))
        seconds = [
            sum(float(row.get(f"{part}_seconds") or 0) for part in ("rollout", "score", "learn"))
            for row in rows
        ]
        runs.append((_credit_of(config), int(config["seed"]), rewards, sum(seconds) / len(seconds)))
        configs.append(config)
    for which, number in Counter((name, seed) for name, seed, *_ in runs).items():
        if number > 1:
            raise DataError(
                f"{number} runs have the credit {which[0]} and the seed {which[1]}",
                where="compare",
                mend="give one of each; runs are paired by seed",
            )
    names = list(dict.fromkeys(name for name, *_ in runs))
    base = baseline or ("none" if "none" in names else names[0])
    if base not in names:
        raise ConfigError(
            f"no run has the credit {base!r}", where="--baseline", mend=f"choose from {', '.join(names)}"
        )
    steps = min(len(rewards) for _, _, rewards, _ in runs)
    lowest = min(_mean(rewards[: max(1, steps // 10)]) for _, _, rewards, _ in runs)
    highest = max(_mean(rewards[:steps][-max(1, steps // 10) :]) for _, _, rewards, _ in runs)
    threshold = (lowest + highest) / 2
    credits, pairs = [], []
    areas = {name: {seed: _mean(r[:steps]) for n, seed, r, _ in runs if n == name} for name in names}
    for name in names:
        own = [(rewards[:steps], seconds) for n, _, rewards, seconds in runs if n == name]
        credits.append(
            {
                "credit": name,
                "runs": len(own),
                "area": _mean([_mean(rewards) for rewards, _ in own]),
                "last": _mean([_mean(rewards[-max(1, steps // 10) :]) for rewards, _ in own]),
                "reached": _mean([float(_reached(rewards, threshold)) for rewards, _ in own]),
                "seconds": _mean([seconds for _, seconds in own]),
            }
        )
        seeds = sorted(areas[name].keys() & areas[base].keys())
        if name != base and seeds:
            gain = paired_difference([areas[name][s] for s in seeds], [areas[base][s] for s in seeds])
            pairs.append(
                {"credit": name, "seeds": len(seeds), "gain": gain.effect, "low": gain.low, "high": gain.high}
            )
    smooth = max(1, steps // 40)
    curves = [
        {
            "step": step,
            "value": _mean([_mean(r[max(0, step - smooth) : step]) for n, _, r, _ in runs if n == name]),
            "name": name,
        }
        for name in names
        for step in range(1, steps + 1)
    ]
    fields = {field for config in configs for field in config} - NOT_COMPARED
    results = json_values(
        {
            "runs": len(runs),
            "steps": steps,
            "cut": sorted({len(rewards) for _, _, rewards, _ in runs} - {steps}),
            "baseline": base,
            "threshold": threshold,
            "credits": credits,
            "pairs": pairs,
            "curves": curves,
            "differences": sorted(f for f in fields if len({json.dumps(c.get(f)) for c in configs}) > 1),
        }
    )
    results_to.mkdir(parents=True, exist_ok=True)
    write_atomic(results_to / "compare.json", json.dumps(results, indent=1) + "\n")
    return results, write_compare_page(results_to / "compare.html", results)


def _credit_of(config: dict[str, Any]) -> str:
    settings = config.get("credit_settings") or {}
    return " ".join([str(config["credit"]), *(f"{key}={value}" for key, value in settings.items())])


def _reached(rewards: Sequence[float], threshold: float) -> int:
    """The first step from which a mean of ten is at the threshold; all of them where it never is."""
    for step in range(len(rewards)):
        if _mean(rewards[max(0, step - 9) : step + 1]) >= threshold:
            return step + 1
    return len(rewards)


# -- small things -----------------------------------------------------------------------------------------------------


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _interval(value: Interval) -> dict[str, float | int]:
    return {"mean": value.effect, "low": value.low, "high": value.high, "n": value.n}


def _stem(model: str) -> str:
    return Path(model).stem or "model"
