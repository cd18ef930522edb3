"""Train a new head of the model that ships on its own text, and draft with it: python train_and_draft.py FOLDER."""

import sys
from pathlib import Path

from noria.core.models.lm import arithmetic, small_lm
from noria.mtp.config import SampleConfig, TrainConfig
from noria.mtp.data import Rows, read_samples
from noria.mtp.decoding.decoder import Decoder, Request
from noria.mtp.decoding.drafter import HeadDrafter
from noria.mtp.decoding.sample_files import Prompt, sample_to_file
from noria.mtp.heads.head import MTPHead
from noria.mtp.training.evaluate import evaluate_head
from noria.mtp.training.trainer import HeadTrainer


def main(folder: Path) -> None:
    """Write text, train, score before and after, and draft one answer."""
    model, tokenizer = small_lm()
    head = MTPHead.fresh(model)

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "text.jsonl"
    if not path.exists():
        questions = [f"{problem.question}\n" for problem in arithmetic(160, seed=1)]
        prompts = [Prompt(tokenizer(text)["input_ids"], text) for text in questions]
        sample_to_file(Decoder(model), tokenizer, prompts, path, SampleConfig(max_new_tokens=64))
    rows = read_samples(path, tokenizer, length=128, vocab=len(tokenizer)).rows
    held, train = rows[slice(0, 10)], rows[slice(10, len(rows))]

    print(f"before: {length(model, head, held):.2f} tokens a round")
    config = TrainConfig(loss="kl_div", train_gamma=3, steps=80, batch_size=8, length=128, lr=1e-3)
    HeadTrainer(model, head, train, config).train()
    print(f"after:  {length(model, head, held):.2f} tokens a round")

    decoder = Decoder(model, HeadDrafter(head), gamma=3)
    (answer,) = decoder.generate([Request(tokenizer("Q: 12+7*3\n")["input_ids"], max_new_tokens=48)])
    print(tokenizer.decode(answer.tokens).strip())


def length(model: object, head: MTPHead, rows: Rows) -> float:
    """Accept length by rejection with three drafts a round."""
    return evaluate_head(model, head, rows).rules["rejection"].served[3].length.effect


if __name__ == "__main__":
    main(Path(sys.argv[1]))
