"""Multi-token-prediction heads that keep reinforcement-learning rollouts fast (Bebop, arXiv 2606.12370).

Most of the time of reinforcement learning goes into rollouts. A head that drafts several tokens ahead, which the model
then verifies in one pass, makes them faster without changing their law. As the policy changes fewer drafts are
accepted; Bebop's answer is to verify by true rejection sampling and to train the head once, before, on the distance
that rejection sampling accepts by. Here are that loss and its rivals, heads in the layouts of the models that have
them, a decoder that is exact, an audit of any engine that says it is, and the numbers by which to tell whether drafting
pays.

Read in this order:

| module | holds |
| --- | --- |
| `acceptance`, `entropy`, `verify` | what is accepted and why; the four lossless rules |
| `losses`, `reads`, `kernels` | losses from hidden states through the LM head in chunks; as a Triton kernel |
| `layouts`, `chain`, `heads`, `checkpoint` | heads as vendors lay them out, in the model's own files |
| `sampling`, `cache`, `recurrent`, `drafter`, `decoder` | ragged batches drafted and verified |
| `config`, `data`, `updates`, `trainer`, `evaluate` | training a head; what it will accept, from text alone |
| `advice`, `timing`, `serving` | does it pay; settings for vLLM and SGLang |
| `audit`, `engines`, `servers` | is an engine's output law the model's? |
| `rl`, `monitors`, `rl_log`, `generate`, `integrations` | drafted rollouts: ours, TRL's, on Ray; what to watch |
| `settings`, `opening`, `generation`, `jobs`, `pages`, `cli` | the verbs of `noria mtp` |
| `small`, `arms`, `proof`, `bench` | the heads that ship; the paper's claims, tested |

Importing this package is light; a name below brings its module, and with it PyTorch, when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from noria.core.lazy import lazily

if TYPE_CHECKING:
    from noria.mtp.checkpoint import load_head, save_with_head
    from noria.mtp.config import TrainConfig
    from noria.mtp.data import Samples, read_samples
    from noria.mtp.decoder import Completion, Decoder, Request
    from noria.mtp.drafter import HeadDrafter
    from noria.mtp.evaluate import HeadScore, evaluate_head
    from noria.mtp.generate import drafted_generate, speculative_generate
    from noria.mtp.heads import MTPHead
    from noria.mtp.monitors import DriftMonitor, EntropyMonitor
    from noria.mtp.rl import PolicyTrainer, RLConfig
    from noria.mtp.sampling import SamplingParams
    from noria.mtp.serving import serving_config
    from noria.mtp.trainer import HeadTrainer

_HOMES = {
    "Completion": "decoder",
    "Decoder": "decoder",
    "DriftMonitor": "monitors",
    "EntropyMonitor": "monitors",
    "HeadDrafter": "drafter",
    "HeadScore": "evaluate",
    "HeadTrainer": "trainer",
    "MTPHead": "heads",
    "PolicyTrainer": "rl",
    "RLConfig": "rl",
    "Request": "decoder",
    "Samples": "data",
    "SamplingParams": "sampling",
    "TrainConfig": "config",
    "drafted_generate": "generate",
    "evaluate_head": "evaluate",
    "load_head": "checkpoint",
    "read_samples": "data",
    "save_with_head": "checkpoint",
    "serving_config": "serving",
    "speculative_generate": "generate",
}

__all__ = [
    "Completion",
    "Decoder",
    "DriftMonitor",
    "EntropyMonitor",
    "HeadDrafter",
    "HeadScore",
    "HeadTrainer",
    "MTPHead",
    "PolicyTrainer",
    "RLConfig",
    "Request",
    "Samples",
    "SamplingParams",
    "TrainConfig",
    "drafted_generate",
    "evaluate_head",
    "load_head",
    "read_samples",
    "save_with_head",
    "serving_config",
    "speculative_generate",
]

__getattr__, __dir__ = lazily(__name__, _HOMES)
