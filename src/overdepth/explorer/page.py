"""The page's HTML around marimo's controls: pure functions from text to markup, everything escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from overdepth.explorer.drawing import HEIGHT


def inline(text: str) -> str:
    """Plain text as HTML, with ``**bold**`` and ```code```; whatever else looks like markup is shown as it is.

    Example:
        >>> from overdepth.explorer.page import inline
        >>> inline("**2** < 3")
        '<b>2</b> &lt; 3'
    """
    escaped = html.escape(text)
    escaped = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", escaped)
    return re.sub(r"`(.+?)`", r"<code>\1</code>", escaped)


def standing(markup: str, name: str) -> str:
    """An element's markup under a name that stays: the page then changes the figure it has, and builds no new one."""
    return re.sub(
        r"^(<marimo-ui-element) object-id='[^']*' random-id='[^']*'",
        rf"\1 object-id='{name}' random-id='{name}'",
        markup,
    )


def body(
    controls: Sequence[str], says: str, text: str, pictures: Sequence[tuple[str, str, str]], wrong: Sequence[str]
) -> str:
    """A view: controls beside pictures on a wide screen, above them on a narrow one.

    The figures' places have a height of their own: marimo's would lose theirs when the window changes its size.

    Args:
        controls: Markup of each.
        says: What the view shows.
        text: What these settings lead to.
        pictures: Heading, caption and the figure's markup.
        wrong: What is not as it should be, a sentence each.
    """
    dials = "".join(f'<div class="od-dial">{control}</div>' for control in controls)
    complaints = "".join(f'<p class="od-wrong" role="alert">{inline(sentence)}</p>' for sentence in wrong)
    figures = "".join(
        f'<figure class="od-figure"><p class="od-title">{inline(title)}</p>'
        f'<div style="height:{HEIGHT}px">{figure}</div><figcaption>{inline(caption)}</figcaption></figure>'
        for title, caption, figure in pictures
    )
    return (
        f'<div class="od-view"><div class="od-controls">{dials}</div><div class="od-shown">'
        f'<p class="od-says">{inline(says)}</p>{complaints}<p class="od-text">{inline(text)}</p>'
        f'<div class="od-figures">{figures}</div></div></div>'
    )
