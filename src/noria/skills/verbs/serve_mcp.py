"""`noria skills serve-mcp`: a bank for MCP clients, over standard input and output."""

from __future__ import annotations

from noria.skills.verbs.options.bank import BankArgument
from noria.skills.verbs.options.models import RouterOptions
from noria.verbs.command import command as make_command


class ServeMcpConfig(BankArgument, RouterOptions):
    """Settings of `noria skills serve-mcp`."""


@make_command(ServeMcpConfig)
def command(config: ServeMcpConfig) -> None:
    """Serve the bank to one MCP client on standard input and output; a promoted version is taken up at once."""
    from noria.skills.integrations.mcp import serve

    serve(config.folder(), config.maker([], None))
