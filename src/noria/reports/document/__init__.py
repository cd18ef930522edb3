"""The document: blocks of a report, and its renderings as Markdown, HTML, PDF and Word."""
