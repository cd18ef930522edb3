"""A learner of multi-token prediction heads: a local model's heads are trained anew on its own traffic (Bebop).

Heads that were trained for another policy, or on another sort of traffic, guess worse, and decoding slows down. The
answers that a backend gave are the model's own text; the system's training runs on those of the training split. Heads
may not change what a model says: the gate decodes prompts of other leakage groups with and without them and asks for
the same tokens, and beside it for longer accepted drafts. The artefact is a run that `noria mtp export` and `evaluate`
open; the gateway does not serve it, so no experiment on traffic follows.
"""

from __future__ import annotations

import asyncio
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from noria.assistant.config import AssistantConfig
from noria.assistant.config.learning import HeadsConfig
from noria.assistant.learners.around import Around
from noria.assistant.learners.working import worked
from noria.core.errors import ConfigError, DataError, needing
from noria.core.experiments.gates import PairedScores, Rule, grouped_gain
from noria.core.experiments.splits import widest_contents
from noria.core.files import remove_folder, write_atomic
from noria.core.learning.dataset import Dataset, Row
from noria.core.learning.in_order import Way
from noria.core.learning.learner import Candidate, Comparison, Gate, LearnerRun, Parent
from noria.core.progress import Progress
from noria.core.runs.served import write_served
from noria.core.traces.chats import chat_answer, chat_messages, chat_span

with needing("mtp"):
    import torch

    from noria.mtp.config import SourceOptions
    from noria.mtp.data import read_samples
    from noria.mtp.decoding.generate import drafted_generate
    from noria.mtp.heads.loading import LoadedPolicy, open_policy
    from noria.mtp.training.evaluate import evaluate_head
    from noria.mtp.verbs.train import TrainJobConfig, run as train

KIND = "heads"
LEAST = 40
"""Answers of the backend below which nothing is trained."""


def check(config: AssistantConfig) -> None:
    """Check that the learner has what it needs.

    Raises:
        ConfigError: no model is named, its backend is not there, or a setting of the training is none.
    """
    heads = config.learning.heads
    if heads is None:
        raise ConfigError("no model is named", where="learning.heads", mend="give its folder and its backend")
    if heads.backend not in config.backends:
        raise ConfigError(f"there is no backend {heads.backend!r}", where="learning.heads.backend")
    _job(heads, Path("data"), Path("run"))


def open_learner(around: Around) -> Way:
    """The learner, and the decoding with and without heads that compares its candidates."""
    heads = around.config.learning.heads
    assert heads is not None
    return Way(HeadLearner(heads), SameDecoding(heads))


@dataclass(frozen=True)
class HeadLearner:
    """Proposes heads that were trained on the answers of a backend.

    Attributes:
        config: the model, its backend, and the settings of the training.
    """

    config: HeadsConfig
    name: str = "heads"
    gate: Gate = "equivalence"

    def settings(self) -> Mapping[str, Any]:
        """Do what :meth:`Learner.settings` says."""
        return self.config.model_dump(mode="json")

    async def propose(self, data: Dataset, parent: Parent, run: LearnerRun) -> Candidate | None:
        """Do what :meth:`Learner.propose` says; None where the backend gave too few answers."""
        rows = answered_by(self.config.backend, data.rows("train"))
        if len(rows) < LEAST:
            run.reasons.append(f"{len(rows)} answers of {self.config.backend}, {LEAST} needed")
            return None
        return await worked(run.spending, lambda progress: self._propose(rows, run, progress))

    def _propose(self, rows: Sequence[Row], run: LearnerRun, progress: Progress) -> Candidate:
        path = run.folder / "text.jsonl"
        template = has_template(self.config)
        lines = [json.dumps(document(row, template=template), ensure_ascii=False) for row in rows]
        write_atomic(path, "".join(f"{line}\n" for line in lines))
        result = train(_job(self.config, path, run.folder / "training"), progress)
        target = run.folder / "heads"
        remove_folder(target)  # of a run that was killed: the same text gives the same heads
        write_served(result.folder, target, prefix="head.")
        notes = {"answers": len(rows), "steps": result.steps, "template": template}
        return Candidate(KIND, target, notes=notes, tested=False)


@dataclass(frozen=True)
class SameDecoding:
    """Decodes prompts of the gates' split greedily with the new heads and without any: 1 where the tokens are the same.

    Attributes:
        config: the model, its backend, and the number of drafts.
    """

    config: HeadsConfig

    def settings(self) -> Mapping[str, Any]:
        """Do what :meth:`Evaluator.settings` says."""
        return {"scores": "the same tokens as plain decoding", "gamma": self.config.gamma}

    async def compare(
        self, rows: Sequence[Row], parent: Parent, candidate: Candidate, run: LearnerRun
    ) -> Comparison:
        """Do what :meth:`Evaluator.compare` says, with the accepted length of both heads as a rule."""
        chosen = answered_by(self.config.backend, rows)[: self.config.prompts]
        folder = parent.folder(KIND)
        return await asyncio.to_thread(self._compare, chosen, folder, candidate)

    def _compare(self, rows: Sequence[Row], parent: Path | None, candidate: Candidate) -> Comparison:
        new = opened(candidate.folder)
        template = has_template(self.config)
        documents = [document(row, template=template) for row in rows]
        same = [float(self._same(new, one)) for one in documents]
        examples = [row.example for row in rows if row.example is not None]
        groups = [one.group for one in examples]
        contents = widest_contents([one.contents for one in examples])
        lengths = self._lengths(new, documents)
        before = self._lengths(opened(parent), documents) if parent else [1.0] * len(documents)
        gained = [a - b for a, b in zip(lengths, before, strict=True)]
        gain = grouped_gain(gained, groups, contents, level=0.95)
        words = f"{gain.effect:+.3g} tokens a round [{gain.low:+.3g}, {gain.high:+.3g}]"
        longer: Literal["passed", "failed"] = "passed" if gain.low > 0 else "failed"
        rule = Rule("accepted length", "missing" if math.isnan(gain.low) else longer, words)
        scores = PairedScores(
            [row.view.trace.id for row in rows], groups, np.ones(len(rows)), np.array(same, np.float64),
            contents=contents,
        )  # fmt: skip
        notes = {
            "prompts": len(rows),
            "accepted length": float(np.nanmean(lengths)) if lengths else None,
            "accepted length before": float(np.nanmean(before)) if before else None,
            "before": "the heads of the bundle" if parent else "plain decoding, a token a round",
        }
        return Comparison(scores, (rule,), notes)

    def _same(self, loaded: LoadedPolicy, one: Mapping[str, Any]) -> bool:
        policy = loaded.policy
        if "prompt" in one:
            ids = policy.tokenizer(one["prompt"], return_tensors="pt").input_ids
        else:
            ids = policy.tokenizer.apply_chat_template(
                one["messages"][:-1], add_generation_prompt=True, return_tensors="pt", return_dict=True
            ).input_ids
        with torch.no_grad():
            plain, drafted = [
                drafted_generate(
                    policy.model, head, ids, vocab=policy.vocab, seed=0, gamma=self.config.gamma,
                    do_sample=False, max_new_tokens=self.config.tokens,
                )
                for head in (None, loaded.head)
            ]  # fmt: skip
        return torch.equal(plain, drafted)

    def _lengths(self, loaded: LoadedPolicy, documents: Sequence[Mapping[str, Any]]) -> list[float]:
        """[documents] tokens a round that a decoder gets by rejection; NaN where a text holds no chain."""
        assert loaded.head is not None
        assert loaded.config is not None
        found = []
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "one.jsonl"
            for one in documents:
                path.write_text(json.dumps(one) + "\n")
                try:
                    samples = read_samples(
                        path, loaded.policy.tokenizer, length=loaded.config.length, vocab=loaded.policy.vocab
                    )
                    score = evaluate_head(
                        loaded.policy.model, loaded.head, samples.rows, gamma=self.config.gamma,
                        rules=("rejection",), vocab=loaded.policy.vocab,
                    )  # fmt: skip
                    found.append(score.rules["rejection"].served[self.config.gamma].length.effect)
                except DataError:  # too short for a chain of drafts
                    found.append(math.nan)
        return found


def answered_by(backend: str, rows: Sequence[Row]) -> list[Row]:
    """The rows whose answer a backend gave by itself: with words, and without a tool's results."""
    found = []
    for row in rows:
        span = chat_span(row.view)
        plain = not any(one.kind == "tool" for one in row.view.trace.spans)
        if row.example is not None and span is not None and span.name == backend and plain:
            found.append(row)
    return found


def document(row: Row, *, template: bool) -> dict[str, Any]:
    """A request and its answer as the training reads them: messages, or plain text for a model without a template.

    Without a template the prompt is the last message: that is what a plain model has to have been given.
    """
    span = chat_span(row.view)
    assert span is not None
    messages, answer = chat_messages(span), chat_answer(span)
    if template:
        return {"messages": [*messages, {"role": "assistant", "content": answer}]}
    return {"prompt": str(messages[-1].get("content") or ""), "completion": answer}


def has_template(config: HeadsConfig) -> bool:
    """Whether the model's tokenizer has a template of chats."""
    loaded = open_policy(SourceOptions(source=config.model), head=False)
    return getattr(loaded.policy.tokenizer, "chat_template", None) is not None


def opened(folder: Path) -> LoadedPolicy:
    """The model and the heads of an artefact.

    Raises:
        CheckpointError: the heads are of another model than the one that is there now.
    """
    return open_policy(SourceOptions(source=str(folder)))


def _job(config: HeadsConfig, data: Path, output: Path) -> TrainJobConfig:
    values = {
        **config.settings,
        "model": config.model,
        "data": str(data),
        "output": str(output),
        "quiet": True,
    }
    try:
        return TrainJobConfig.model_validate(values)
    except ValueError as error:
        first = str(error).splitlines()[1:3]
        raise ConfigError(" ".join(first).strip(), where="learning.heads.settings") from None
