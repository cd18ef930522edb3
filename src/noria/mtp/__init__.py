"""Multi-token-prediction heads that keep reinforcement-learning rollouts fast (Bebop, arXiv 2606.12370).

Most of the time of reinforcement learning goes into rollouts. A head that drafts several tokens ahead, which the model
then verifies in one pass, makes them faster without changing their law. As the policy changes fewer drafts are
accepted; Bebop's answer is to verify by true rejection sampling and to train the head once, before, on the distance
that rejection sampling accepts by. Here are that loss and its rivals, heads in the layouts of the models that have
them, a decoder that is exact, an audit of any engine that says it is, and the numbers by which to tell whether drafting
pays.

Read in this order; a docstring has the equations of the paper whose numbers stand here beside its module:

| room | module | holds |
| --- | --- | --- |
| `acceptance` | `rates`, `chains` | what is accepted, by every rule (sec. 3, app. E) |
| | `verify` | one call that verifies a ragged batch by any of four lossless rules |
| | `sampling`, `streams` | temperature and filters; random numbers of each request |
| | `entropy`, `regression` | what entropy allows; accept length against entropy over a run (Eq. 16) |
| | `advice` | does drafting pay, and with how many drafts |
| `heads` | `layouts`, `chain`, `head` | heads as vendors lay them out |
| | `checkpoint`, `model_files`, `decoder_layers` | heads in the model's own files |
| | `backbone` | what a model's states and law must be |
| | `recurrent`, `small`, `loading` | states of hybrid models; the heads that ship; a model with its head |
| `decoding` | `cache`, `drafter`, `decoder` | ragged batches drafted and verified |
| | `generate`, `sample_files`, `timing` | in place of `model.generate`; text to a file; what a round costs |
| `training` | `losses`, `reads`, `blocks`, `kernels` | Eq. 10-13, through the LM head in chunks; as a Triton kernel |
| | `trainer` | training a head (sec. 4, 6.1) |
| | `evaluate`, `own_text` | what it will accept, from text alone; is the text the policy's own |
| `engines` | `audit`, `engine`, `evidence`, `desk`, `checks` | is an engine's output law the model's? |
| | `local`, `remote_engines`, `engine_flags` | engines to audit; settings of vLLM and SGLang |
| `rl` | `config`, `rollout`, `policy` | a policy trained on drafted rollouts |
| | `monitors`, `rl_log` | what to watch; what a run's log says |
| `integrations` | `trl`, `ray` | the same rollouts in TRL's trainer, and on Ray |
| `verbs` | | the verbs of `noria mtp` |
| `proof` | `claims`, `arms`, `figures`, `small_heads`, `bench` | the paper's claims, tested; speed against peers |

`data` holds text packed into rows, `config` the settings of a training, `types` names and limits.

Importing this package is light; a name below brings its module, and with it PyTorch, when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from noria.core.lazy import lazily

if TYPE_CHECKING:
    from noria.mtp.acceptance.sampling import SamplingParams as SamplingParams
    from noria.mtp.config import TrainConfig as TrainConfig
    from noria.mtp.data import Samples as Samples, read_samples as read_samples
    from noria.mtp.decoding.decoder import Completion as Completion, Decoder as Decoder, Request as Request
    from noria.mtp.decoding.drafter import HeadDrafter as HeadDrafter
    from noria.mtp.decoding.generate import (
        drafted_generate as drafted_generate,
        speculative_generate as speculative_generate,
    )
    from noria.mtp.engines.engine_flags import serving_config as serving_config
    from noria.mtp.heads.checkpoint import load_head as load_head, save_with_head as save_with_head
    from noria.mtp.heads.head import MTPHead as MTPHead
    from noria.mtp.rl.config import RLConfig as RLConfig
    from noria.mtp.rl.monitors import DriftMonitor as DriftMonitor, EntropyMonitor as EntropyMonitor
    from noria.mtp.rl.policy import PolicyTrainer as PolicyTrainer
    from noria.mtp.training.evaluate import HeadScore as HeadScore, evaluate_head as evaluate_head
    from noria.mtp.training.trainer import HeadTrainer as HeadTrainer

__getattr__, __dir__, __all__ = lazily(__name__)
