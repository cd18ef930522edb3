"""A benchmark as a task folder of lmms-eval: `lmms_eval --include_path FOLDER --tasks noria_grounding`.

The folder holds the items, the tasks and the functions they name; it does not need Noria. Written against lmms-eval
0.7: one document a question or trait, standard errors clustered by source.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from noria.core.chat import reasoning
from noria.core.errors import DataError
from noria.core.files import write_atomic
from noria.grounding.asking.prompts import MEANINGS
from noria.grounding.corpus import letters
from noria.grounding.corpus.clips import clip_path
from noria.grounding.corpus.records import Corpus, each_question
from noria.grounding.corpus.types import LETTERS, LEVELS, TRAITS


def item_rows(corpus: Corpus, videos: Path | None) -> list[dict[str, Any]]:
    """A row a question: {id, video, source, category, question, options, answer}, options in order of their letters.

    Raises:
        DataError: a clip is not there, or a question's letters are not those of its options.
    """
    rows = []
    for record, number, question in each_question(corpus):
        options = sorted(question.options, key=lambda option: option.id)
        if "".join(option.id for option in options) != LETTERS[: len(options)] or question.correct is None:
            raise DataError(
                f"question {number} has no right option, or letters that are none",
                where=record.video_id,
                mend="see noria grounding validate",
            )
        rows.append(
            {
                "id": f"{record.video_id}/{number}",
                "video": _clip(record.video_path, record.video_id, videos),
                "source": record.source,
                "category": question.category,
                "question": question.question,
                "options": [option.text for option in options],
                "answer": question.correct_answer,
            }
        )
    return rows


def rating_rows(corpus: Corpus, videos: Path | None) -> list[dict[str, Any]]:
    """A row a trait: {id, video, source, category, question, options, answer}, the options the five levels."""
    rows = []
    for record, levels in zip(corpus, corpus.levels(), strict=True):
        for trait, level in zip(TRAITS, levels.tolist(), strict=True):
            if level >= 0:
                rows.append(
                    {
                        "id": f"{record.video_id}/{trait}",
                        "video": _clip(record.video_path, record.video_id, videos),
                        "source": record.source,
                        "category": trait,
                        "question": f"How does the person in the clip come across on {trait} ({MEANINGS[trait]})?",
                        "options": list(LEVELS),
                        "answer": "ABCDE"[level],
                    }
                )
    return rows


def _clip(video_path: str, video_id: str, videos: Path | None) -> str:
    return "" if videos is None else str(clip_path(videos, video_path, video_id).resolve())


def export_lmms_eval(corpus: Corpus, folder: Path, videos: Path | None) -> Path:
    """Write the task folder.

    Args:
        corpus: whole records.
        folder: made if need be.
        videos: folder of the clips; without it the tasks are blind ones, which is a control.

    Raises:
        DataError: a clip is not there, or there is nothing to ask.
        RunError: the disk refuses.
    """
    tasks = {"questions": item_rows(corpus, videos), "ratings": rating_rows(corpus, videos)}
    for name, rows in tasks.items():
        if not rows:
            raise DataError(f"no {name}", where=str(corpus.folder or "corpus"))
        write_atomic(
            folder / f"{name}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        )
        write_atomic(folder / f"noria_grounding_{name}.yaml", _task(name, folder))
    group = {"group": "noria_grounding", "task": [f"noria_grounding_{name}" for name in tasks]}
    write_atomic(folder / "noria_grounding.yaml", yaml.safe_dump(group, sort_keys=False))
    # The reader of answers is Noria's own, copied, so that one reply has one reading everywhere.
    write_atomic(folder / "utils.py", _source(letters) + _source(reasoning).replace(_FUTURE, "") + FUNCTIONS)
    return folder


_FUTURE = "from __future__ import annotations\n"
"""It may stand at the top of a file alone."""


def _source(module: ModuleType) -> str:
    return Path(str(module.__file__)).read_text(encoding="utf-8")


def _task(name: str, folder: Path) -> str:
    """The YAML of a task. `!function` is lmms-eval's own tag, so these lines are written as they are."""
    settings = {
        "task": f"noria_grounding_{name}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str((folder / f"{name}.jsonl").resolve())}},
        "test_split": "test",
        "output_type": "generate_until",
        "cluster_key": "source",
        "score_key": "score",
        "generation_kwargs": {"max_new_tokens": 16, "temperature": 0, "do_sample": False},
        "metadata": [{"version": 1.0}],
    }
    functions = """\
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
doc_to_target: answer
process_results: !function utils.process_results
metric_list:
  - metric: accuracy
    aggregation: !function utils.mean_accuracy
    higher_is_better: true
"""
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True) + functions


FUNCTIONS = """


# -- functions of the tasks in this folder, for lmms-eval

def doc_to_visual(doc):
    return [doc["video"]] if doc["video"] else []


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    options = "\\n".join(f"{LETTERS[n]}. {text}" for n, text in enumerate(doc["options"]))
    return f"{doc['question']}\\n{options}\\nAnswer with the letter of one option only."


def process_results(doc, results):
    letter = letter_in(bare_text(results[0]))
    if letter is not None and LETTERS.index(letter) >= len(doc["options"]):
        letter = None
    entry = {
        "id": doc["id"],
        "source": doc["source"],
        "category": doc["category"],
        "answered": letter is not None,
        "score": float(letter == doc["answer"]),  # what is not answered is wrong
    }
    return {"accuracy": entry}


def mean_accuracy(entries):
    return sum(entry["score"] for entry in entries) / len(entries)
"""
