"""A run without what only its training needs: its settings, and the weights that answer.

A checkpoint holds optimizers and the random states of its process, which differ from one process to the next though no
weight does. A version that is known by its content leaves them out, so that the same weights are the same bytes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from pathlib import Path

from noria.core.digests import weight_files, write_digests
from noria.core.errors import CheckpointError
from noria.core.files import appearing
from noria.core.records import read_json
from noria.core.runs.run import checkpoints, read_config


def write_served(run: Path, target: Path, *, prefix: str, without: Collection[str] = ()) -> Path:
    """Write the last checkpoint of a run for those who open it, as a folder that was not there.

    Args:
        run: folder of the run.
        target: folder that is written, whole or not at all.
        prefix: beginning of the names of the tensors that are kept.
        without: settings that are not kept, such as paths of data.

    Raises:
        CheckpointError: the run has no such tensors. RunError: the disk refuses.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    last = checkpoints(run)[-1]
    with safe_open(last / "tensors.safetensors", framework="pt") as file:
        names = sorted(name for name in file.keys() if name.startswith(prefix))  # noqa: SIM118
        tensors = {name: file.get_tensor(name) for name in names}
    if not tensors:
        raise CheckpointError(f"no tensor is named {prefix}…", where=str(last))
    record = read_json(last / "state.json")
    kept = {name: value for name, value in read_config(run).items() if name not in without}
    with appearing(target) as partial:
        (partial / "config.json").write_text(json.dumps(kept, indent=1) + "\n")
        shutil.copyfile(run / "versions.json", partial / "versions.json")
        own = partial / last.relative_to(run)
        own.mkdir(parents=True)
        save_file(tensors, own / "tensors.safetensors")
        plain = {"step": record["step"], "state": record["state"], "log": None, "rng": {}}
        (own / "state.json").write_text(json.dumps(plain))
        write_digests(own, [*weight_files(own), own / "state.json"])
    return target
