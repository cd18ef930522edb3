"""GRPO with flow credit on Countdown: the paper's largest effect (52.6 → 63.2, Qwen3-4B-Base) and its cheapest task.

It needs the extras `trl` and `reasoning`. On eight GPUs, with the controls that belong beside any gain:

    for credit in none uniform random flow flow_bottom entropy fai; do
        accelerate launch --num_processes 8 examples/credit/countdown.py --credit $credit --vllm
    done

Settings are the paper's where it has them (learning rate, batch of 512, no divergence term, temperature 0.99, top-k
100, 500 steps); the number of rollouts of a prompt is not stated there, and 8 is a guess.
"""

from __future__ import annotations

import argparse
from typing import Any

from datasets import Dataset
from trl import GRPOConfig

from noria.core.training.trl import ComponentGRPOTrainer
from noria.credit.config import NAMES, named_credit
from noria.credit.integrations.trl import RolloutCredit
from noria.credit.responses.answers import finder
from noria.credit.tasks.gym import gym

ASK = "\nThink step by step, then give the expression alone in <answer> tags."


def main() -> None:
    """Train a policy with one credit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="Qwen/Qwen3-4B-Base")
    parser.add_argument("--credit", default="flow", choices=NAMES)
    parser.add_argument("--output", default="runs/countdown")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--questions", type=int, default=32_000)
    parser.add_argument("--rows", type=int, default=8, help="completions on a device at once")
    parser.add_argument(
        "--accumulate", type=int, default=8, help="batches of a step: 8 GPUs × 8 rows × 8 = 512"
    )
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument(
        "--tokens", type=int, default=1024, help="most tokens of a completion: 1,024 and 8,192 in the paper"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--vllm", action="store_true", help="write the completions with vLLM, on the same GPUs"
    )
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()

    questions = gym("countdown", options.questions, seed=options.seed)
    find = finder("tag")
    data = Dataset.from_list([{"prompt": f"{q.prompt}{ASK}\n", "place": n} for n, q in enumerate(questions)])

    def right(completions: list[str], place: list[int], **_: Any) -> list[float]:
        spans = [find(text) for text in completions]
        answers = [
            text[slice(*span)] if span else None for text, span in zip(completions, spans, strict=True)
        ]
        return [questions[n].score(answer) for n, answer in zip(place, answers, strict=True)]

    arguments = GRPOConfig(
        output_dir=f"{options.output}/{options.credit}-{options.seed}",
        per_device_train_batch_size=options.rows,
        gradient_accumulation_steps=options.accumulate,
        num_generations=options.group,
        max_completion_length=options.tokens,
        max_steps=options.steps,
        learning_rate=1e-6,
        loss_type="dapo",
        beta=0.0,
        temperature=0.99,
        top_k=100,
        seed=options.seed,
        bf16=not options.cpu,
        use_cpu=options.cpu,
        use_vllm=options.vllm,
        logging_steps=1,
        save_steps=50,
        report_to=[],
    )
    credit = RolloutCredit(named_credit(options.credit, answer="tag", seed=options.seed))
    trainer = ComponentGRPOTrainer(
        options.model,
        right,
        args=arguments,
        train_dataset=data,
        token_credit=credit,
        around=credit.around,
    )
    trainer.train()


if __name__ == "__main__":
    main()
