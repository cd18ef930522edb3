"""Tasks for other harnesses, run in them where they are installed, and models that run in this process."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from noria.core.chat import Answer, Audio, ChatRequest, Failure, Frame, Image, Video, system, user
from noria.core.errors import DataError, ModelError
from noria.grounding.corpus.clips import jpeg
from noria.grounding.corpus.records import Corpus
from noria.grounding.integrations.inspect_ai import export_inspect
from noria.grounding.integrations.lmms_eval import export_lmms_eval
from tests.grounding.conftest import Synth


def functions(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("exported", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Loader(yaml.SafeLoader):
    """YAML with lmms-eval's tag."""


Loader.add_constructor("!function", lambda loader, node: f"!function {node.value}")


# -- lmms-eval --------------------------------------------------------------------------------------------------------

KNOWN = {
    "task", "dataset_path", "dataset_kwargs", "test_split", "output_type", "cluster_key", "score_key",
    "generation_kwargs", "metadata", "doc_to_visual", "doc_to_text", "doc_to_target", "process_results", "metric_list",
}  # fmt: skip
"""Fields of lmms-eval 0.7's task configuration that we write."""


def test_the_task_folder_is_lmms_evals(synth: Synth, tmp_path: Path) -> None:
    export_lmms_eval(synth.corpus, tmp_path, synth.videos)
    group = yaml.safe_load((tmp_path / "noria_grounding.yaml").read_text())
    assert group == {
        "group": "noria_grounding",
        "task": ["noria_grounding_questions", "noria_grounding_ratings"],
    }
    for name, rows in (("questions", 42), ("ratings", 30)):
        task = yaml.load((tmp_path / f"noria_grounding_{name}.yaml").read_text(), Loader)
        assert set(task) == KNOWN
        path = Path(task["dataset_kwargs"]["data_files"]["test"])
        docs = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(docs) == rows
        assert all(Path(doc["video"]).is_file() for doc in docs)
        for field in ("doc_to_visual", "doc_to_text", "process_results"):
            assert hasattr(functions(tmp_path / "utils.py"), task[field].removeprefix("!function utils."))


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("C", 1),
        ("c", 1),
        ("(C) a smile", 1),
        ("[THINK]A[/THINK]C", 1),
        ("\\boxed{C}", 1),
        ("C or D", 0),
        ("C, A, B, D, E, F", 0),
        ("A person smiles", 0),
        ("The answer is C.", 1),
        ("answer: C or answer: D", 0),
        ("Cats", 0),
        ("", 0),
        ("<think>A</think>C", 1),
        ("E", 0),
    ],
)
def test_the_exported_scorer_guesses_nothing(tmp_path: Path, synth: Synth, reply: str, score: float) -> None:
    export_lmms_eval(synth.corpus, tmp_path, None)
    utils = functions(tmp_path / "utils.py")
    doc = {
        "id": "a",
        "source": "s",
        "category": "x",
        "question": "?",
        "options": ["1", "2", "3", "4"],
        "answer": "C",
        "video": "",
    }
    entry = utils.process_results(doc, [reply])["accuracy"]
    assert entry["score"] == score
    assert entry["source"] == "s"
    assert utils.doc_to_visual(doc) == []
    assert "C. 3" in utils.doc_to_text(doc)
    assert utils.mean_accuracy([entry, {"score": 1.0}]) == (score + 1) / 2


def test_lmms_eval_itself_loads_the_tasks(synth: Synth, tmp_path: Path) -> None:
    """Where lmms-eval is installed; it needs torchvision, so our own environment goes without."""
    tasks = pytest.importorskip("lmms_eval.tasks")
    export_lmms_eval(synth.corpus, tmp_path, synth.videos)
    manager = tasks.TaskManager(include_path=str(tmp_path))
    assert "noria_grounding_questions" in manager.all_tasks
    loaded = manager.load_task_or_group("noria_grounding_questions")
    task = loaded["noria_grounding_questions"]
    docs = list(task.test_docs())
    assert len(docs) == 42
    assert task.doc_to_target(docs[0]) == docs[0]["answer"]
    found = task.process_results(docs[0], [docs[0]["answer"]])
    assert found["accuracy"]["score"] == 1.0


# -- inspect_ai -------------------------------------------------------------------------------------------------------


def test_the_task_file_is_written_whole(synth: Synth, tmp_path: Path) -> None:
    export_inspect(synth.corpus, tmp_path, synth.videos, frames=2, side=64)
    rows = [json.loads(line) for line in (tmp_path / "questions.jsonl").read_text().splitlines()]
    assert len(rows) == 42
    assert all((tmp_path / f["file"]).is_file() for f in rows[0]["frames"])
    compile((tmp_path / "task.py").read_text(), "task.py", "exec")
    with pytest.raises(DataError, match="no questions"):
        export_inspect(Corpus(()), tmp_path / "none", None)


def test_inspect_runs_the_exported_task(
    synth: Synth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a real server, which is told the right letter of every other question."""
    inspect_ai = pytest.importorskip("inspect_ai")
    from inspect_ai.model import get_model

    from tests.chat_server import Body, Reply, chat_server
    from tests.grounding.test_runner import pictures, words

    monkeypatch.setenv("INSPECT_LOG_DIR", str(tmp_path / "logs"))
    export_inspect(Corpus(synth.corpus.records[:2]), tmp_path, synth.videos, frames=2, side=64)
    rows = [json.loads(line) for line in (tmp_path / "questions.jsonl").read_text().splitlines()]
    shown = []

    def respond(body: Body, n: int) -> Reply:
        text = words(body)
        row = next(
            r for r in rows if r["question"] in text and all(option in text for option in r["options"])
        )
        shown.append(len(pictures(body)))
        right = rows.index(row) % 2 == 0
        wrong = next(letter for letter in "ABCDEF" if letter != row["answer"])
        usage = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
        return Reply(text=f"ANSWER: {row['answer'] if right else wrong}", usage=usage)

    with chat_server(respond) as double:
        module = functions(tmp_path / "task.py")
        (log,) = inspect_ai.eval(
            module.questions(),
            model=get_model("openai-api/noria/m", base_url=double.url, api_key="none"),
            log_dir=str(tmp_path / "logs"),
            display="none",
        )
    assert log.status == "success", log.error
    assert log.results is not None
    metrics = {name: m.value for s in log.results.scores for name, m in s.metrics.items()}
    assert metrics["all"] == pytest.approx(0.5)
    assert metrics["Spatial Localization Verification"] in (0.0, 0.5, 1.0)
    assert set(shown) == {2}


# -- models in this process -------------------------------------------------------------------------------------------


def picture() -> Image:
    return Image(jpeg(np.full((28, 28, 3), 90, np.uint8)))


def test_a_model_of_hugging_face_answers_in_this_process(tmp_path: Path) -> None:
    """A tiny LLaVA with random weights: real processor, real template, real generation."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    from noria.grounding.integrations.hugging import HuggingModel

    names = ["<pad>", "<unk>", "<s>", "</s>", "<image>", "hello", "rate", "t", "="]
    words = Tokenizer(WordLevel({word: n for n, word in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip
    vision = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14,
    )  # fmt: skip
    text = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=4, vision_feature_layer=-1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlavaForConditionalGeneration(config).eval()
    images = transformers.CLIPImageProcessor(
        size={"height": 28, "width": 28}, crop_size={"height": 28, "width": 28}
    )
    template = (
        "{% for m in messages %}{% for p in m['content'] %}{% if p['type'] == 'image' %}<image>{% else %}"
        "{{ p['text'] }} {% endif %}{% endfor %}{% endfor %}"
    )
    processor = transformers.LlavaProcessor(
        image_processor=images, tokenizer=tokenizer, patch_size=14, vision_feature_select_strategy="default",
        chat_template=template, image_token="<image>", num_additional_image_tokens=1,
    )  # fmt: skip
    here = HuggingModel(model, processor, "tiny")
    frames = Video((Frame(picture(), 0.5), Frame(picture(), 1.5)))
    request = ChatRequest((system("hello"), user(frames, "rate")), temperature=0.0, max_tokens=5)
    outcome = asyncio.run(here.ask(request))
    assert isinstance(outcome, Answer), outcome
    assert outcome.usage.completion_tokens is not None
    assert outcome.usage.completion_tokens <= 5
    assert outcome.usage.prompt_tokens is not None
    assert outcome.usage.prompt_tokens > 8  # two images of four tokens each
    sound = ChatRequest((user(Audio(b"RIFF"), "rate"),))
    refused = asyncio.run(here.ask(sound))
    assert isinstance(refused, Failure)
    assert "takes frames" in refused.message
    with pytest.raises(ModelError, match="not an image-text-to-text model"):
        HuggingModel.open(str(tmp_path))
