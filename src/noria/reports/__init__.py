"""TVIR: research reports of text, charts and images whose every number can be traced (arXiv 2606.02320).

The problem: reports with decorative visuals, charts whose numbers contradict or lack a source, figures inserted after
the writing. Rooms in the order of reading:

- `evidence`: quantities in text, the ledger, derived numbers, support of sentences
- `reading`, `search`: files and packages as documents, the local index, web services behind a guard
- `charts`, `figures`: charts as data, quality of pictures
- `document`: blocks of a report and their renderings; parsing of any system's Markdown
- `agents`: the paper's four stages (S1 to S4) behind contracts, with and without a model
- `jobs`: settings of a report, its plan with an estimate, its result
- `checking`: verification of finished reports
- `finished`: refreshing with the numbers that changed, follow-up questions
- `evaluation`: the dual-path evaluation, ten metrics, and the released one's order
"""

from typing import TYPE_CHECKING

from noria.core.lazy import lazily

if TYPE_CHECKING:
    from noria.reports.agents.pipeline import Job as Job
    from noria.reports.checking.verify import verify as verify, verify_markdown as verify_markdown
    from noria.reports.document.parsing import parse_report as parse_report
    from noria.reports.search.index import Index as Index, build_index as build_index

__getattr__, __dir__, __all__ = lazily(__name__)
