"""Marimo's scripts from memory: a page asks for three hundred of them before it shows anything."""

from __future__ import annotations

import functools
import mimetypes
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = "/assets/"


class Assets:
    """Answers what is asked of a folder of files whose names change with their content, and passes on the rest.

    Args:
        app: That answers the rest.
        folder: The files; those in folders of it are left to ``app``.
    """

    def __init__(self, app: ASGIApp, folder: Path) -> None:
        self.app = app
        self.names = frozenset(path.name for path in folder.glob("*") if path.is_file())
        self.read = functools.lru_cache(maxsize=None)(lambda name: (folder / name).read_bytes())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers, or passes on."""
        name = scope.get("path", "").removeprefix(PREFIX)
        if scope["type"] != "http" or scope["method"] != "GET" or name not in self.names:
            await self.app(scope, receive, send)
            return
        content = self.read(name)
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        headers = {
            "content-type": f"{kind}; charset=utf-8" if kind.startswith("text/") else kind,
            "content-length": str(len(content)),
            "cache-control": "max-age=31536000, immutable",
        }
        fields = [(key.encode(), value.encode()) for key, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": content})
