"""The gateway without packages: a hook that keeps them from being imported, and a start of the gateway for each group.

As a program it reads a folder, and groups of packages with settings, from a file of JSON, and starts the gateway once
for each group, each in a fork of this process, which has imported what every gateway imports and nothing more. What it
found it writes to stdout, a line for each group.
"""

from __future__ import annotations

import json
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

TOKEN = "operators-own-token-0123"
HOOK = """
import ipaddress, os, sys

BLOCKED = frozenset(os.environ["TEST_BLOCKED"].split(","))


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def unplugged(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        if not ipaddress.ip_address(arguments[1][0]).is_loopback:
            raise OSError(101, "Network is unreachable")
    if event == "socket.getaddrinfo" and arguments[0] not in (None, "", "localhost", b"localhost"):
        try:
            ipaddress.ip_address(arguments[0])
        except ValueError:
            raise OSError(101, "Network is unreachable") from None


sys.meta_path.insert(0, Blocker())
if "TEST_UNPLUGGED" in os.environ:
    sys.addaudithook(unplugged)
"""
"""A `sitecustomize` that blocks the packages in `TEST_BLOCKED`, and every socket beyond loopback.

An event loop of C opens sockets of its own, so block `uvloop`, too, where the network is to be unplugged."""


def hooked(folder: Path, blocked: Iterable[str], *, unplugged: bool = False) -> dict[str, str]:
    """Variables with which a Python process, and those that it starts, lack these packages, and maybe the network."""
    (folder / "hook").mkdir(exist_ok=True)
    (folder / "hook" / "sitecustomize.py").write_text(HOOK)
    path = os.pathsep.join(
        [str(folder / "hook"), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    )
    return {"PYTHONPATH": path, "TEST_BLOCKED": ",".join(blocked)} | (
        {"TEST_UNPLUGGED": "1"} if unplugged else {}
    )


def _block(packages: Iterable[str]) -> None:
    os.environ["TEST_BLOCKED"] = ",".join(packages)
    exec(HOOK, {"__name__": "hook"})
    blocked = set(packages)
    for name in [one for one in sys.modules if one.partition(".")[0] in blocked]:
        del sys.modules[name]


def _look(folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    """What a gateway says of itself, of a request, and of a data set."""
    from noria.assistant.config import AssistantConfig
    from noria.assistant.service.service import opened_gateway
    from noria.core.service.hosting import running

    config = AssistantConfig.model_validate(values)

    def call(path: str, content: Any = None) -> tuple[int, bytes]:
        headers = {"content-type": "application/json", "authorization": f"Bearer {TOKEN}"}
        data = None if content is None else json.dumps(content).encode()
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url + path, data, headers), timeout=30
            ) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    with (
        opened_gateway(folder, config, token=TOKEN, companion=False, access_log=False) as service,
        running(service) as url,
    ):
        asked = call("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]})
        labels = json.loads(call(f"/v1/traces/{json.loads(asked[1])['id']}")[1])["trace"].get("labels", {})
        off = json.loads(call("/v1/off")[1])["data"]
        page = call("/")[1].decode()
        rows = call("/v1/datasets/sft.parquet")
        places = ("/traces", "/experiments", "/skills", "/parts", "/judges", "/lineage", "/data")
        return {
            "health": call("/health")[0],
            "asked": asked[0],
            "text": json.loads(asked[1])["choices"][0]["message"]["content"] if asked[0] == 200 else "",
            "label": labels.get("off"),
            "off": {one["name"]: one["why"] for one in off},
            "shown": re.findall(r"<td><b>(.*?)</b></td><td data-label=\"why\">(.*?)</td>", page),
            "pages": {place: call(place)[0] for place in places},
            "rows": (rows[0], rows[1][:300].decode("utf-8", "replace")),
        }


def main() -> None:
    """Start the gateway once for each group of the file."""
    import noria.assistant.companion.companion
    import noria.assistant.service.service  # noqa: F401

    given = json.loads(Path(sys.argv[1]).read_text())
    for name, (packages, settings) in given["groups"].items():
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            _block(packages)
            found = _look(Path(given["folder"]) / name, settings)
            print(json.dumps({"group": name, **found}), flush=True)
            os._exit(0)
        if os.waitpid(child, 0)[1] != 0:
            raise SystemExit(f"{name}: the gateway did not start")


if __name__ == "__main__":
    main()
