"""Answers as HTML: CommonMark with tables, no HTML of the model's, no picture from elsewhere."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from noria.core.errors import needing

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markupsafe import Markup

MOST = 200_000
"""Most characters that are read as Markdown; a longer text stays plain."""
_SAFE = re.compile(r"(https?|mailto):", re.IGNORECASE)


def answer_html(text: str) -> Markup:
    """An answer's text as HTML that holds no script, no foreign picture and no HTML of its own.

    A picture of Markdown stays as its words: fetching it would tell its server who reads what, and a text from outside
    could have put it there. A link is followed by a click alone.
    """
    from markupsafe import Markup, escape

    if len(text) > MOST:
        return Markup("<p>") + escape(text) + Markup("</p>")
    return Markup(_reader().render(text))


@functools.cache
def _reader() -> MarkdownIt:
    with needing("serve"):
        from markdown_it import MarkdownIt

    class Reader(MarkdownIt):
        def validateLink(self, url: str) -> bool:
            return _SAFE.match(url) is not None

    reader = Reader("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"])
    reader.disable(["html_block", "html_inline"])
    rules: Any = reader
    rules.add_render_rule("link_open", _link)
    rules.add_render_rule("image", _picture)
    rules.add_render_rule("heading_open", _heading)
    rules.add_render_rule("heading_close", _heading)
    rules.add_render_rule("th_open", _cell)
    rules.add_render_rule("td_open", _cell)
    rules.add_render_rule("table_open", lambda *_: '<div class="scroll" tabindex="0" role="region"><table>')
    rules.add_render_rule("table_close", lambda *_: "</table></div>")
    return reader


def _link(renderer: Any, tokens: Sequence[Any], place: int, options: Any, env: Any) -> str:
    token = tokens[place]
    token.attrSet("rel", "noopener noreferrer nofollow ugc")
    token.attrSet("target", "_blank")
    return str(renderer.renderToken(tokens, place, options, env))


def _picture(renderer: Any, tokens: Sequence[Any], place: int, options: Any, env: Any) -> str:
    """A picture as its words alone."""
    from markupsafe import escape

    return str(escape(tokens[place].content))


def _cell(renderer: Any, tokens: Sequence[Any], place: int, options: Any, env: Any) -> str:
    """A cell of a table, aligned by a class: the page's policy forbids styles in markup."""
    token = tokens[place]
    style = token.attrs.pop("style", "")
    if style:
        token.attrSet("class", str(style).removeprefix("text-align:"))
    return str(renderer.renderToken(tokens, place, options, env))


def _heading(renderer: Any, tokens: Sequence[Any], place: int, options: Any, env: Any) -> str:
    """A heading of an answer lies below those of the page."""
    token = tokens[place]
    token.tag = f"h{min(6, int(token.tag[1]) + 2)}"
    return str(renderer.renderToken(tokens, place, options, env))
