"""Running `noria` as a user does: alone in this process, or in two processes that train together."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

SHARDED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
"""What accelerate's launcher sets for FSDP2."""


def alone(arguments: list[str]) -> None:
    """In this process, which has the libraries open that a new one takes seconds to import."""
    from noria.cli import main

    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert not ended.value.code


def together(arguments: list[str], **more: str) -> None:
    """Two processes under torchrun, on loopback."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | more
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(free_port()),
    ]
    done = subprocess.run(
        [*launch, "-m", "noria.cli", *arguments], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
