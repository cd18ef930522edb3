"""The jobs behind the verbs of `noria mtp`: from what a user typed to files on disk.

Everything that a user can get wrong is checked before the first file is written. A job says how far it is on stderr and
returns what there is to tell; it prints no answer itself.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from noria.core.errors import ConfigError
from noria.core.files import output_path, write_atomic
from noria.core.models.loading import LanguageModel
from noria.core.progress import Progress, Task
from noria.core.runs.checkpoints import fingerprint
from noria.core.runs.outputs import check_run_folder, is_run
from noria.core.runs.run import Run, save_settings, settled
from noria.core.statistics.intervals import Interval
from noria.core.training.loop import training
from noria.core.training.parallel import Parallel
from noria.mtp.acceptance.advice import RuleAdvice, Timing, advise_rule
from noria.mtp.acceptance.sampling import SamplingParams
from noria.mtp.config import TrainConfig
from noria.mtp.data import Rows, Samples, read_samples
from noria.mtp.decoding.decoder import Decoder
from noria.mtp.decoding.drafter import HeadDrafter
from noria.mtp.decoding.sample_files import SampleResult, read_prompts, sample_to_file
from noria.mtp.decoding.timing import measure
from noria.mtp.engines.audit import AuditReport
from noria.mtp.engines.audit import audit as run_audit
from noria.mtp.engines.engine import Engine, Sampler
from noria.mtp.engines.engine_flags import ServingConfig, against_serving, serving_config
from noria.mtp.engines.local import OneToken, decoder_engine, law_of, transformers_engine
from noria.mtp.engines.remote_engines import Server, server_engine
from noria.mtp.heads.checkpoint import save_with_head
from noria.mtp.heads.head import MTPHead
from noria.mtp.heads.layouts import family_of
from noria.mtp.heads.loading import LoadedPolicy, fresh_or_stored, open_policy
from noria.mtp.rl.rl_log import diagnose, read_rl_log
from noria.mtp.training.evaluate import Averages, HeadScore, evaluate_head
from noria.mtp.training.losses import LossTerms
from noria.mtp.training.trainer import HeadTrainer
from noria.mtp.types import MAX_GAMMA, Rule
from noria.mtp.verbs.pages import write_rl_page, write_run_page, write_score_page

__all__ = [
    "ExportResult",
    "TrainResult",
    "advise",
    "evaluate",
    "export",
    "report",
    "rl_report",
    "sample",
    "train",
]

HELD_OUT = 0.05
"""The share of the text that a training keeps to be judged on, where it has enough of it."""
RULES: tuple[Rule, ...] = ("rejection", "target_only", "match", "block")


# -- training ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainResult:
    """What a training leaves.

    Attributes:
        folder: the run's.
        report: its page; None in the other processes of a distributed training.
        step: made in all.
        score: of the head on text that was held out; None if there was too little text to hold any out.
        stored: whether the model's files had a head to start from.
    """

    folder: Path
    report: Path | None
    step: int
    score: HeadScore | None
    stored: bool


def train(
    config: TrainConfig,
    folder: Path,
    *,
    allow_download: bool = False,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> TrainResult:
    """Train a head, or go on training it, in `folder`, score it on held-out text and write its page.

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
    parallel = Parallel("mtp")
    check_run_folder(folder)
    if is_run(Path(config.model or "").expanduser()):
        raise ConfigError("it is a run, not a model", where="--model", mend="give the model itself")
    policy = open_policy(
        config.model or "",
        head=False,
        precision=config.precision,
        device=parallel.device,
        allow_download=allow_download,
        trust_remote_code=trust_remote_code,
    ).policy
    with Progress(quiet=True) if progress is None or not parallel.main else progress as said:
        samples = _samples(Path(config.data or ""), policy, config.length, said)
        rows, held = _split(samples.rows, config.seed)
        head, stored = fresh_or_stored(policy, config)
        inputs = {
            "model": (str(config.model), fingerprint(policy.model)),
            "data": (str(config.data), _content(samples.rows)),
        }
        trainer = HeadTrainer(policy.model, head, rows, config, vocab_size=policy.vocab, parallel=parallel)
        parameters = sum(p.numel() for p in head.parameters())
        origin = "from the model's files" if stored else "new"
        said.say(f"{parameters / 1e6:,.2f} million parameters to train, {origin}; loss {config.loss}")
        identity = settled(folder, config.model_dump(mode="json", exclude={"steps"}), inputs)
        with Run.open(folder, config=identity, writer=parallel.main) as run:
            parallel.barrier()
            if parallel.main:
                save_settings(folder, config)
            with training(run, said, config.steps, page=write_run_page) as task:
                trainer.train(run, on_step=_watch(said, task))
            # Every process scores: a sharded backbone runs in all of them or in none.
            score = None if held is None else _score(policy, head, held, config, said)
            if score is not None and parallel.main:
                record = score_record(score) | {"step": trainer.step, "text": "held-out text"}
                write_atomic(folder / "score.json", json.dumps(record, indent=1) + "\n")
            page = write_run_page(folder) if parallel.main else None
            parallel.barrier()
    return TrainResult(folder, page, trainer.step, score, stored)


def _watch(said: Progress, task: Task) -> Callable[[int, LossTerms], None]:
    """Tells loss and acceptance of every step, and once what is odd about them."""
    warned = False

    def watch(step: int, terms: LossTerms) -> None:
        nonlocal warned
        if not warned and (warning := terms.warning):
            said.say(f"warning: {warning}")
            warned = True
        alphas = " ".join(f"{alpha:.3f}" for alpha in terms.acceptance.tolist())
        task.at(step, f"loss {float(terms.loss.detach()):.4f}  acceptance {alphas}")

    return watch


def _split(rows: Rows, seed: int) -> tuple[Rows, Rows | None]:
    """Text to train on and text that is held out, the same whenever the seed is."""
    count = min(256, round(len(rows) * HELD_OUT))
    if count < 1:
        return rows, None
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    return rows[order[count:]], rows[order[:count]]


def _content(rows: Rows) -> str:
    """A hash of all text."""
    digest = hashlib.sha256()
    for part in (rows.tokens, rows.segments, rows.mask):
        digest.update(part.numpy().tobytes())
    return digest.hexdigest()[:16]


# -- scoring ----------------------------------------------------------------------------------------------------------


def evaluate(
    source: str,
    data: Path,
    output: str | None = None,
    *,
    gamma: int = 3,
    rules: Sequence[Rule] = RULES,
    params: SamplingParams | None = None,
    own_temperature: bool = False,
    length: int = 1024,
    batch_size: int = 8,
    model: str | None = None,
    allow_download: bool = False,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], Path]:
    """Score a head on text that the policy wrote with the same `params`.

    Args:
        source: run, model with a head, or `small`.
        data: the text.
        output: folder of the results; `evaluation` in a run, `evaluation-NAME` else, by default.
        gamma: drafts a round.
        rules: of verification.
        params: temperature and filters, for both sides.
        own_temperature: take a run's own temperature instead; also where `params` is None.
        length: of a row of packed text.
        batch_size: rows at a time.
        model: where the run's model is now.
        allow_download: whether a hub model may be fetched.
        trust_remote_code: whether code that comes with the model may run.
        progress: where to say how far it is.

    Returns:
        The results as they are in `evaluation.json`, and the page beside it.

    Raises:
        NoriaError: anything that a user can mend.
    """
    opened = open_policy(
        source, model=model, allow_download=allow_download, trust_remote_code=trust_remote_code
    )
    _check_gamma(opened, gamma)
    folder = _beside(source, opened, "evaluation", output)
    params = _drawn(params, own_temperature, opened)
    with progress or Progress(quiet=True) as said:
        samples = _samples(data, opened.policy, length, said)
        score = _scored(opened, samples.rows, gamma, rules, params, batch_size, said)
    results = score_record(score) | {
        "name": opened.name,
        "step": opened.step,
        "data": str(data),
        "documents": samples.documents,
        "temperature": params.temperature,
        "top_k": params.top_k,
        "top_p": params.top_p,
        "min_p": params.min_p,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "evaluation.json", json.dumps(results, indent=1) + "\n")
    return results, write_score_page(folder / "evaluation.html", results)


def _score(
    policy: LanguageModel, head: Any, rows: Rows, config: TrainConfig, said: Progress, gamma: int = 3
) -> HeadScore:
    opened = LoadedPolicy(policy.name, policy, head, config)
    gamma = min(gamma, config.train_gamma)
    params = SamplingParams(temperature=config.temperature)
    return _scored(opened, rows, gamma, ("rejection", "target_only"), params, config.batch_size, said)


def _scored(
    opened: LoadedPolicy,
    rows: Rows,
    gamma: int,
    rules: Sequence[Rule],
    params: SamplingParams,
    batch_size: int,
    said: Progress,
    served: Sequence[int] | None = None,
) -> HeadScore:
    """Score a head as it drafts, also where it was trained with another chain attention."""
    task = said.task("score", len(rows))
    assert opened.head is not None
    score = evaluate_head(
        opened.policy.model,
        opened.head,
        rows,
        gamma=gamma,
        served=served,
        rules=rules,
        params=params,
        vocab=opened.policy.vocab,
        batch_size=batch_size,
        on_rows=task.at,
    )
    task.done()
    if (warning := score.warning) is not None:
        said.say(f"warning: {warning}")
    return score


def score_record(score: HeadScore) -> dict[str, Any]:
    """A score as JSON values: averages over a decoder's rounds, and over positions beside them."""

    def interval(value: Interval) -> dict[str, float | None]:
        ends = {"mean": value.effect, "low": value.low, "high": value.high}
        return {name: _known(end) for name, end in ends.items()}

    def averages(found: Averages) -> dict[str, Any]:
        return {
            "accept_length": interval(found.length),
            "prefix_rates": [interval(rate) for rate in found.rates],
            "conditional_rates": [_known(rate) for rate in found.chains.conditional.tolist()],
        }

    gamma = len(next(iter(score.rules.values())).rates)
    return {
        "gamma": gamma,
        "chains": score.chains,
        "target_entropy": score.target_entropy,
        "target_entropy_range": list(score.entropy_range),
        "draft_entropy": score.draft_entropy,
        "surprise": interval(score.surprise),
        "impossible_chains": score.impossible,
        "warning": score.warning,
        "rules": {
            rule: averages(found.served[gamma]) | {"over_positions": averages(found)}
            for rule, found in score.rules.items()
        },
        "over_positions_factorised": score.factorised,
    }


# -- sampling ---------------------------------------------------------------------------------------------------------


def sample(
    source: str,
    prompts: Path,
    output: str,
    *,
    max_new_tokens: int,
    params: SamplingParams | None = None,
    own_temperature: bool = False,
    gamma: int | None = None,
    rule: Rule = "rejection",
    samples: int = 1,
    seed: int = 0,
    batch_size: int = 64,
    model: str | None = None,
    precision: str | None = None,
    allow_download: bool = False,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> SampleResult:
    """Write the policy's own completions of prompts: what a head is trained and scored on.

    Args:
        source: run, model or `small`.
        prompts: a file of them.
        output: the `.jsonl` file to write.
        max_new_tokens: of each completion.
        params: temperature and filters.
        own_temperature: take a run's own temperature instead; also where `params` is None.
        gamma: drafts a round of the source's head; None or 0 decodes without.
        rule: how drafts are verified.
        samples: completions of each prompt.
        seed: of all of them.
        batch_size: requests decoded together.
        model: where the run's model is now.
        precision: "fp32" or "bf16".
        allow_download: whether a hub model may be fetched.
        trust_remote_code: whether code that comes with the model may run.
        progress: where to say how far it is.

    Raises:
        NoriaError: anything that a user can mend.
    """
    path = output_path(output)
    if path.suffix != ".jsonl":
        raise ConfigError("the name does not end in .jsonl", where="--output", mend="write samples.jsonl")
    opened = open_policy(
        source,
        head=bool(gamma),
        model=model,
        precision=precision,
        allow_download=allow_download,
        trust_remote_code=trust_remote_code,
    )
    _check_gamma(opened, gamma)
    policy = opened.policy
    found = read_prompts(prompts, policy.tokenizer)
    drafter = None if opened.head is None else HeadDrafter(opened.head)
    decoder = Decoder(policy.model, drafter, gamma=gamma or 1, rule=rule, vocab=policy.vocab)
    return sample_to_file(
        decoder,
        policy.tokenizer,
        found,
        path,
        max_new_tokens=max_new_tokens,
        params=_drawn(params, own_temperature, opened),
        samples=samples,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )


# -- advice -----------------------------------------------------------------------------------------------------------


def advise(
    source: str,
    data: Path,
    *,
    batch_size: int = 1,
    gammas: Sequence[int] = (1, 2, 3, 4, 5),
    params: SamplingParams | None = None,
    own_temperature: bool = False,
    context: int = 256,
    rounds: int = 20,
    least: float = 1.0,
    length: int = 1024,
    model: str | None = None,
    precision: str | None = None,
    allow_download: bool = False,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> tuple[RuleAdvice, Timing]:
    """Whether speculation pays on this machine, from this head's acceptance and measured times.

    Args:
        source: run, model with a head, or `small`.
        data: text that the policy wrote with the same `params`.
        batch_size: requests that are decoded together.
        gammas: the numbers of drafts a round that are considered; those that the head cannot draft are left out.
        params: temperature and filters.
        own_temperature: take a run's own temperature instead; also where `params` is None.
        context: tokens before the ones that are timed.
        rounds: timed of each kind of pass.
        least: the speed-up that would make it worth the trouble.
        length: of a row of packed text.
        model: where the run's model is now.
        precision: "fp32" or "bf16".
        allow_download: whether a hub model may be fetched.
        trust_remote_code: whether code that comes with the model may run.
        progress: where to say how far it is.

    Raises:
        NoriaError: anything that a user can mend.
    """
    opened = open_policy(
        source,
        model=model,
        precision=precision,
        allow_download=allow_download,
        trust_remote_code=trust_remote_code,
    )
    assert opened.head is not None
    most = _most(opened.head)
    wanted = sorted({g for g in gammas if 1 <= g <= most})
    if not wanted:
        raise ConfigError(
            f"{list(gammas)} drafts a round", where="--gammas", mend=f"give some of 1 … {most} for this head"
        )
    params = _drawn(params, own_temperature, opened)
    rules: tuple[Rule, ...] = ("rejection", "target_only")
    with progress or Progress(quiet=True) as said:
        samples = _samples(data, opened.policy, length, said)
        score = _scored(opened, samples.rows, wanted[-1], rules, params, 8, said, wanted)
        task = said.task("time")
        timing = measure(
            opened.policy.model,
            opened.head,
            gammas=wanted,
            batch_size=batch_size,
            context=context,
            rounds=rounds,
            params=params,
            vocab=opened.policy.vocab,
        )
        task.done()
    rates = {rule: {g: score.rules[rule].served[g].rates for g in wanted} for rule in rules}
    return advise_rule(rates, timing, least=least), timing


def rl_report(
    log: Path,
    output: str | None = None,
    *,
    entropy: str | None = None,
    length: str | None = None,
    early: int | None = None,
    slope: float | None = None,
) -> tuple[dict[str, Any], Path]:
    """What a reinforcement-learning run's log says of entropy and acceptance.

    Args:
        log: `.jsonl` or `.parquet`, one record a step.
        output: folder of the results; `rl-report`, beside the log, by default.
        entropy: the field of the policy's entropy.
        length: the field of the accept length.
        early: how many first steps the slope is fitted on.
        slope: tokens a nat, instead of fitting it.

    Returns:
        The results as they are in `rl-report.json`, and the page beside it.

    Raises:
        NoriaError: anything that a user can mend.
    """
    found = read_rl_log(log, entropy=entropy, length=length)
    verdict = diagnose(found, early=early, slope=slope)
    parts, fit = verdict.decomposition, verdict.regression
    columns = zip(
        found.steps,
        found.entropy,
        found.length,
        parts.change,
        parts.entropy_part,
        parts.mismatch,
        strict=True,
    )
    names = ("step", "entropy", "accept_length", "change", "entropy_part", "mismatch")
    results = {
        "name": log.stem,
        "verdict": verdict.text,
        "regression": {
            "slope": _known(fit.slope.effect),
            "low": _known(fit.slope.low),
            "high": _known(fit.slope.high),
            "intercept": _known(fit.intercept.effect),
            "correlation": _known(fit.correlation),
            "spread": _known(fit.spread),
            "n": fit.n,
        },
        "decomposition": {
            "identifiable": parts.identifiable,
            "slope": _known(parts.slope.effect),
            "reason": parts.reason,
        },
        "steps": [{name: _known(value) for name, value in zip(names, row, strict=True)} for row in columns],
    }
    folder = log.parent / "rl-report" if output is None else output_path(output)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "rl-report.json", json.dumps(results, indent=1) + "\n")
    return results, write_rl_page(folder / "rl-report.html", results)


def _known(value: float) -> float | None:
    """A JSON number: null for what is missing."""
    return float(value) if math.isfinite(value) else None


# -- audit ------------------------------------------------------------------------------------------------------------

PROMPTS = ("Q: 7+5", "def ", "The")


def audit_engine(
    source: str,
    *,
    engine: str = "noria",
    prompts: Sequence[str] = PROMPTS,
    gamma: int = 3,
    rule: Rule = "rejection",
    samples: int = 4000,
    depth: int | None = None,
    seed: int = 0,
    alpha: float = 1e-3,
    plain: bool = False,
    server: Server | None = None,
    model: str | None = None,
    allow_download: bool = False,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> AuditReport:
    """Whether an engine samples by the law of a model that is opened here beside it.

    Args:
        source: run, model with a head, or `small`: the law, and what drafts.
        engine: `noria`, `transformers`, or `module:name` of a callable (prompt, n, params, seed) → sequences.
        prompts: texts to go on from.
        gamma: drafts a round.
        rule: how our decoder verifies.
        samples: sequences a statistical check is made of.
        depth: joint laws of 1 … `depth` tokens are tested; γ + 1 by default.
        seed: of the first request.
        alpha: the probability with which a lossless engine may be convicted.
        plain: our decoder without drafts.
        server: an OpenAI-compatible server instead of an engine here.
        model: where the run's model is now.
        allow_download: whether a hub model may be fetched.
        trust_remote_code: whether code that comes with the model may run.
        progress: where to say how far it is.

    Raises:
        NoriaError: anything that a user can mend.
    """
    ours = engine == "noria" and server is None and not plain
    opened = open_policy(
        source, head=ours, model=model, allow_download=allow_download, trust_remote_code=trust_remote_code
    )
    _check_gamma(opened, gamma)
    policy, depth = opened.policy, depth or gamma + 1
    length = depth + gamma
    asked = [list(policy.tokenizer(text)["input_ids"]) for text in prompts]
    if not all(asked):
        raise ConfigError("a prompt without tokens", where="--prompt", mend="give some text")
    found: Engine | Sampler
    if server is not None:
        found = server_engine(server, length=length)
    elif engine == "noria":
        found = _own_engine(opened, length, gamma, rule, asked[0])
    elif engine == "transformers":
        found = transformers_engine(policy.model, length=length)
    else:
        found = _callable(engine)
    with progress or Progress(quiet=True) as said:
        task = said.task("audit")
        report = run_audit(
            found,
            law_of(policy.model, vocab=policy.vocab),
            asked,
            samples=samples,
            depth=depth,
            seed=seed,
            alpha=alpha,
        )
        task.done()
    return report


def _own_engine(opened: LoadedPolicy, length: int, gamma: int, rule: Rule, prompt: list[int]) -> Engine:
    """Our decoder, with the head, with one that has fallen behind, and with drafts that the model hardly ever says."""
    policy, head = opened.policy, opened.head
    if head is None:
        return decoder_engine(policy.model, length=length, vocab=policy.vocab)
    stale = MTPHead(policy.model, layout=head.layout, layers=head.layers)
    stale.load_state_dict(head.state_dict())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in stale.parameters():
            spread = p.float().std().item() if p.numel() > 1 else 0.0
            p.add_((torch.randn(p.shape, generator=generator) * spread).to(p))
    with torch.no_grad():
        ids = torch.tensor([prompt], device=policy.model.device)
        never = int(policy.model(input_ids=ids).logits[0, -1, : policy.vocab].argmin())
    return decoder_engine(
        policy.model,
        HeadDrafter(head),
        length=length,
        gamma=gamma,
        rule=rule,
        vocab=policy.vocab,
        stale=HeadDrafter(stale),
        disjoint=OneToken(never, policy.model.get_output_embeddings().weight.shape[0]),
    )


def _callable(name: str) -> Sampler:
    """The callable at `module:name`; a module may lie in the current folder.

    Raises:
        ConfigError: there is none.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ConfigError(
            f"no engine {name!r}", where="--engine", mend="choose noria, transformers or module:name"
        )
    sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(str(error), where=f"--engine {name}") from error
    finally:
        sys.path.remove("")
    if not callable(found):
        raise ConfigError("it is not callable", where=f"--engine {name}")
    sampler: Sampler = found
    return sampler


# -- export -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExportResult:
    """An exported head.

    Attributes:
        folder: the model's, with the head in its files.
        layers: of the head.
        layout: whose names its tensors have.
        serving: how engines are told.
    """

    folder: Path
    layers: int
    layout: str
    serving: ServingConfig


def export(
    source: str,
    output: str,
    *,
    gamma: int | None = None,
    rule: Rule = "rejection",
    overwrite: bool = False,
    model: str | None = None,
    allow_download: bool = False,
    trust_remote_code: bool = False,
) -> ExportResult:
    """Write the model with a run's head in its own files, and say how to serve it.

    Args:
        source: run, or model with a head.
        output: the folder to write; the model's own only with `overwrite`.
        gamma: drafts a round of the engines; 3, or as many as a head of several layers has if these are fewer, by
            default.
        rule: how they verify.
        overwrite: replace an earlier export.
        model: where the run's model is now.
        allow_download: whether a hub model may be fetched.
        trust_remote_code: whether code that comes with the model may run.

    Raises:
        NoriaError: anything that a user can mend; nothing is written or changed then.
    """
    serving_config(gamma or 3, rule)  # what is wrong with them is told before the model is read
    opened = open_policy(
        source, model=model, allow_download=allow_download, trust_remote_code=trust_remote_code
    )
    assert opened.head is not None
    if not opened.policy.files.is_dir():
        raise ConfigError(
            "a head is written into safetensors weights, and the model is a GGUF file",
            where=opened.policy.name,
            mend="give its safetensors folder with --model",
        )
    head, config = opened.head, opened.policy.model.config
    _check_gamma(opened, gamma)
    against = against_serving(config.model_type, family_of(config), head.layout.name, head.layers)
    serving = replace(serving_config(gamma or min(3, _most(head)), rule), note=against)
    folder = save_with_head(
        opened.policy.model, head, opened.policy.files, output_path(output), overwrite=overwrite
    )
    return ExportResult(folder, head.layers, head.layout.name, serving)


def report(folder: Path) -> Path:
    """Write a run's `report.html` again, from its files.

    Raises:
        RunError: there is no run.
    """
    return write_run_page(folder)


# -- small things -----------------------------------------------------------------------------------------------------


def _samples(path: Path, policy: LanguageModel, length: int, said: Progress) -> Samples:
    began = time.perf_counter()
    task = said.task("read")
    samples = read_samples(
        path, policy.tokenizer, length=length, vocab=policy.vocab, on_document=lambda n: task.at(n)
    )
    task.done()
    notes = [f"{samples.documents:,} documents in {len(samples.rows):,} rows of {length}"]
    if samples.cut:
        notes.append(f"{samples.cut:,} cut at {length} tokens")
    if samples.short:
        notes.append(f"{samples.short:,} without anything to train on left out")
    said.say(f"{', '.join(notes)} ({time.perf_counter() - began:.1f} s)")
    return samples


def _most(head: MTPHead) -> int:
    """Drafts that a head can make a round."""
    return MAX_GAMMA if head.recursive else head.layers


def _check_gamma(opened: LoadedPolicy, gamma: int | None) -> None:
    """Whether the head can draft as many.

    Raises:
        ConfigError: it cannot.
    """
    if opened.head is not None and gamma is not None and gamma > _most(opened.head):
        raise ConfigError(
            f"{gamma} drafts a round of a head with {opened.head.layers} layers",
            where="--gamma",
            mend=f"give at most {_most(opened.head)}",
        )


def _drawn(params: SamplingParams | None, own_temperature: bool, opened: LoadedPolicy) -> SamplingParams:
    """How tokens are drawn: as told, at a run's own temperature where that is wanted or nothing is told."""
    if opened.config is None or not (own_temperature or params is None):
        return params or SamplingParams()
    return replace(params or SamplingParams(), temperature=opened.config.temperature)


def _beside(source: str, opened: LoadedPolicy, what: str, output: str | None) -> Path:
    if output is not None:
        return output_path(output)
    folder = Path(source).expanduser()
    return folder / what if is_run(folder) else Path(f"{what}-{Path(opened.name).stem or 'model'}")
