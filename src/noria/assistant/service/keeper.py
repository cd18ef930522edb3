"""Runs a command that dies with who started it: `python keeper.py COMMAND …`, on the standard library alone.

The command is a process group of its own. It is asked to end when stdin ends, which it does with the starting process
however that was killed; after ten seconds it is killed. The keeper's exit code is the command's.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

PATIENCE = 10.0
"""Seconds for which a command may take its leave."""


def main() -> int:
    """Run the command until it ends or stdin does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for who started this
    try:
        child = subprocess.Popen(
            sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_dying_with_parent()
        )
    except OSError as error:
        print(f"{sys.argv[1]}: {error.strerror}", file=sys.stderr)
        return 127
    leaving = threading.Event()

    def watch() -> None:
        while os.read(0, 4096):
            pass
        leaving.set()
        _signal(child, signal.SIGTERM)
        try:
            child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            _signal(child, signal.SIGKILL)

    signal.signal(signal.SIGTERM, lambda *_: _signal(child, signal.SIGTERM))
    threading.Thread(target=watch, daemon=True).start()
    code = child.wait()
    _signal(child, signal.SIGKILL)  # what the command has left behind in its group
    return code if code >= 0 else 128 - code


def _dying_with_parent() -> Callable[[], object] | None:
    """What Linux is asked before the command runs: to kill it where its keeper is killed, which cannot do so then."""
    if not sys.platform.startswith("linux"):
        return None
    control = ctypes.CDLL(None).prctl
    return lambda: control(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


if __name__ == "__main__":
    sys.exit(main())
