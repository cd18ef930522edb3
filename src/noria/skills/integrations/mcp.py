"""A bank as an MCP server over standard input and output: the skills to list, read and choose, never to run.

Every call looks at the version in place, so that a promoted bank is taken up without a restart. Scripts of skills are
named and can be read; nothing executes them.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from noria.core.errors import DataError, NoriaError, require
from noria.skills.bank.bank import Bank, BankFolder
from noria.skills.traffic.samples import Sample

if TYPE_CHECKING:
    from noria.skills.routing.routers import Router
    from noria.skills.stages.route_optimizer import RouterMaker

LONGEST = 4000
"""Most characters of a request."""


class LiveBank:
    """The bank that is in place, read again when a version was published.

    Args:
        folder: the bank's folder.
        maker: makes a router of a bank.
    """

    def __init__(self, folder: BankFolder, maker: RouterMaker) -> None:
        self.folder, self.maker = folder, maker
        self._seen: tuple[int, int] | None = None
        self._bank: Bank | None = None
        self._router: Router | None = None

    def present(self) -> tuple[Bank, Router]:
        """The bank and its router, as they are now."""
        path = self.folder.ledger.path
        status = path.stat() if path.exists() else None
        mark = (0, 0) if status is None else (status.st_mtime_ns, status.st_size)
        if self._bank is None or self._router is None or mark != self._seen:
            self._bank = self.folder.load()
            self._router, self._seen = self.maker(self._bank), mark
        return self._bank, self._router

    def list_skills(self) -> str:
        """Names and descriptions of the skills that a router may choose, as JSON."""
        bank, _ = self.present()
        return json.dumps(
            [{"name": s.name, "description": s.description} for s in bank.routed()], ensure_ascii=False
        )

    def read_skill(self, name: str) -> str:
        """Body of a skill, with the names of the files that it brings along."""
        bank, _ = self.present()
        present = bank.present_name(name)
        if present is None:
            raise DataError(f"there is no skill {name[:64]!r}", where="read_skill")
        skill = bank.skills[present]
        files = "".join(f"\n- {file.path}" for file in skill.files)
        return skill.body + (f"\n\nFiles:{files}\n" if files else "")

    def choose_skill(self, request: str) -> str:
        """Choose the skill of a request: JSON with skill, outcome and confidence."""
        _, router = self.present()
        (found,) = router.route([Sample("request", request[:LONGEST], "request")])
        sure = None if found.confidence != found.confidence else round(found.confidence, 4)
        return json.dumps(
            {"outcome": found.outcome, "skill": found.skill, "confidence": sure, "reason": found.reason}
        )


def make_server(live: LiveBank) -> Any:
    """An MCP server of a bank, with three tools.

    Raises:
        MissingExtra: the package `mcp` is not installed.
    """
    module: Any = require("mcp.server.mcpserver", "mcp")
    errors: Any = require("mcp.server.mcpserver.exceptions", "mcp")
    server = module.MCPServer("noria-skills")

    def told(tool: Callable[..., str]) -> Callable[..., str]:
        @functools.wraps(tool)
        def call(*args: Any, **fields: Any) -> str:
            try:
                return tool(*args, **fields)
            except NoriaError as error:
                raise errors.ToolError(str(error)) from None

        return call

    for name in ("list_skills", "read_skill", "choose_skill"):
        server.tool(name=name)(told(getattr(live, name)))
    return server


def serve(folder: BankFolder, maker: RouterMaker) -> None:
    """Serve a bank until the client closes standard input.

    Raises:
        DataError: there is no bank, or it cannot be read.
    """
    live = LiveBank(folder, maker)
    live.present()
    run_server(make_server(live))


def run_server(server: Any) -> None:
    """Speak with one client on standard input and output."""
    server.run("stdio")
