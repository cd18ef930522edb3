"""The process of `noria reports serve`: its index, its folder, where it listens."""

from __future__ import annotations

from pathlib import Path

from noria.core.files import disk_errors
from noria.core.service.hosting import read_token, serve
from noria.core.service.serving import Service
from noria.reports.service.service import ReportService


def serve_reports(
    index: Path, folder: Path, *, seconds: float, token_file: Path | None, host: str, port: int
) -> None:
    """Serve until the process is stopped.

    Args:
        index: file of the index.
        folder: folder of jobs and reports.
        seconds: most seconds of a report.
        token_file: file of the token; the environment variable NORIA_TOKEN by default.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.

    Raises:
        NoriaError: what keeps it from starting.
    """
    token = read_token(token_file)
    with disk_errors(folder):
        (folder / "reports").mkdir(parents=True, exist_ok=True)
    reports = ReportService(index, folder, seconds=seconds)
    service = Service("reports", reports.routes(), token=token, around=reports.around)
    serve(service, host=host, port=port)
