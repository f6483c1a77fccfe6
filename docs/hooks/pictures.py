"""On narrow screens the pictures of the theory give way to versions whose panels stand below each other.

Their captions say so: the style sheet puts "Top" in the place of "Left" there.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

_PICTURE = re.compile(r'<img [^>]*?src="(?P<folder>[^"]*pictures/)(?P<name>[^"/]+\.svg)"[^>]*>')
_CAPTION = re.compile(r"(?<=</picture></p>\n<p><em>).*?(?=</em></p>)", re.DOTALL)
_PLACE = re.compile(r"\b(?:[Ll]eft|[Rr]ight)\b")
_BELOW = {"Left": "Top", "left": "top", "Right": "Bottom", "right": "bottom"}
_NARROW = "(max-width: 44.98em)"


def on_page_content(content: str, *, page: Page, files: Files, **_: object) -> str:
    """Offers the narrow version of a picture beside the wide one, where there is one."""

    def offer(found: re.Match[str]) -> str:
        narrow = f"{found['folder']}narrow/{found['name']}"
        place = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.src_uri), narrow))
        if files.get_file_from_path(place) is None:
            return found[0]
        return f'<picture><source media="{_NARROW}" srcset="{narrow}">{found[0]}</picture>'

    return _CAPTION.sub(lambda found: _PLACE.sub(_placed, found[0]), _PICTURE.sub(offer, content))


def _placed(found: re.Match[str]) -> str:
    return f'<span data-narrow="{_BELOW[found[0]]}">{found[0]}</span>'
