"""`noria reports serve`: reports as jobs over HTTP."""

from __future__ import annotations

from pathlib import Path

from noria.core.files import output_path
from noria.reports.service.config import ServeConfig
from noria.verbs.command import command as make_command


@make_command(ServeConfig, extra="serve")
def command(config: ServeConfig) -> None:
    """Take requests, each with the token, and write their reports one after the other.

    A request may narrow what these settings allow: less time and money, fewer sources, one language.
    """
    from noria.core.service.hosting import serve_routes
    from noria.reports.service.service import ReportService

    folder = output_path(config.output) if config.output else Path("runs/reports/serve")
    reports = ReportService(config, folder)
    serve_routes("reports", reports.routes(), config, around=reports.running, folder=folder / "reports")
