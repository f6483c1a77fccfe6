"""Serving the explorer: this machine's own browser and nobody else, one process, gone with its terminal."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from overdepth._extras import missing_extra
from overdepth.explorer.assets import Assets
from overdepth.explorer.views import VIEWS

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOST = "127.0.0.1"
APP = Path(__file__).with_name("app.py")
OWN_SOURCES = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' ws://{host} data: blob:; "
    "frame-ancestors 'self'"
)
"""What the browser is told that pages may load: nothing from anywhere else."""
OWN_SCRIPTS = """<script>{
  const { get, set, ...rest } = Object.getOwnPropertyDescriptor(HTMLScriptElement.prototype, "src");
  Object.defineProperty(HTMLScriptElement.prototype, "src", {
    ...rest, get, set(url) { if (new URL(url, location.href).origin === location.origin) set.call(this, url); },
  });
}</script>"""
"""Before all other scripts: marimo's figures ask for a typesetter on the web, which none of ours needs."""
_OWN_NAMES = {HOST, "localhost"}
_LAST_WORDS_S = 3  # how long open pages, and then their threads, may take to hear that the server goes


class OwnPagesOnly:
    """Answers requests that were made to this machine by name, from pages of this server.

    Whatever page is open in the same browser could ask a port of this machine; with a name of its own that leads here
    it could even read the answers. Neither is a page of ours.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on what is ours and refuses the rest."""
        if scope["type"] in ("http", "websocket") and not is_own(scope["headers"]):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await send({"type": "http.response.start", "status": 403, "headers": []})
                await send({"type": "http.response.body", "body": b"This server answers its own pages alone.\n"})
            return
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1") if "headers" in scope else ""
        await self.app(scope, receive, _restricting(send, host))


def _restricting(send: Send, host: str) -> Send:
    """Answers as ``send`` does, with the browser told what the page may load."""

    async def restricted(message: Message) -> None:
        if message["type"] == "http.response.start":
            policy = (b"content-security-policy", OWN_SOURCES.format(host=host).encode())
            message = {**message, "headers": [*message.get("headers", []), policy]}
        await send(message)

    return restricted


def is_own(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether a request names this machine as its host, and comes from no page, or from one of the same server."""
    found = {name.lower(): value.decode("latin-1") for name, value in headers}
    host, origin = found.get(b"host", ""), found.get(b"origin")
    try:
        asked = urlsplit(f"//{host}")
        if asked.hostname not in _OWN_NAMES or asked.port == 0:
            return False
        return origin is None or urlsplit(origin).netloc == host
    except ValueError:  # no address at all
        return False


def bound(port: int) -> socket.socket:
    """A socket of this machine alone, at a port or, for 0, at a free one.

    Raises:
        ValueError: If the port is taken or not allowed.
    """
    # With the protocol named asyncio turns Nagle's algorithm off, which costs 40 ms an answer.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        raise ValueError(f"--port {port} cannot be used ({error.strerror}); leave it out for a free one.") from error
    return listener


def address(port: int, settings: dict[str, str]) -> str:
    """The explorer's address with these settings.

    Example:
        >>> from overdepth.explorer.server import address
        >>> address(2718, {"view": "modes"})
        'http://127.0.0.1:2718/?view=modes'
    """
    return f"http://{HOST}:{port}/" + (f"?{urlencode(settings)}" if settings else "")


def serve(listener: socket.socket, started: Callable[[], None]) -> None:
    """Serves the explorer until it is interrupted.

    Args:
        listener: From :func:`bound`.
        started: Called once when the server answers.

    Raises:
        ModuleNotFoundError: If marimo is not installed.
        KeyboardInterrupt: When the user ends it.
    """
    try:
        import marimo
        import uvicorn
    except ModuleNotFoundError as error:
        missing_extra(error, "overdepth explore", "explore")
    served: list[Any] = []  # marimo's app for the file, which its builder keeps to itself

    def noted(app: Any) -> Any:
        served.append(app)
        return app

    assets = Path(marimo.__file__).parent / "_static" / "assets"
    builder = marimo.create_asgi_app(quiet=True, html_head=head(assets))
    asgi = builder.with_app(path="", root=str(APP), middleware=[noted]).build()
    config = uvicorn.Config(
        OwnPagesOnly(Assets(asgi, assets)), log_level="warning", timeout_graceful_shutdown=1, lifespan="off"
    )

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            started()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await super().shutdown(sockets=sockets)
            for app in served:  # open pages have threads that would keep the process
                await app.state.session_manager.shutdown()

    earlier = set(threading.enumerate())
    try:
        Server(config).run(sockets=[listener])
    finally:
        _join(earlier)


def preload(key: str) -> None:
    """Imports a view beside whatever else is done."""

    def work() -> None:
        usual = sys.getswitchinterval()
        sys.setswitchinterval(0.0005)  # the page's scripts are served meanwhile
        try:
            with contextlib.suppress(ModuleNotFoundError):  # the page says which
                _ = VIEWS[key].made
        finally:
            sys.setswitchinterval(usual)

    threading.Thread(target=work, daemon=True).start()


def head(assets: Path) -> str:
    """What stands in the page's head: :data:`OWN_SCRIPTS`, and the order to load Plotly before it is asked for.

    Args:
        assets: Marimo's folder of scripts.
    """
    ordered = [
        f'<link rel="modulepreload" crossorigin href="./assets/{path.name}">'
        f'<script>requestIdleCallback(() => import("./assets/{path.name}"))</script>'
        for path in assets.glob("Plot-*.js")
    ]
    return OWN_SCRIPTS + "".join(ordered)


def _join(earlier: set[threading.Thread]) -> None:
    """Waits for the threads of open pages, which were told to stop: one that outlives the interpreter may abort it."""
    end = time.monotonic() + _LAST_WORDS_S
    for thread in set(threading.enumerate()) - earlier:
        if thread.ident is None:  # about to start
            continue
        thread.join(timeout=max(0.0, end - time.monotonic()))


def open_browser(url: str) -> None:
    """Opens the browser without waiting for it."""
    threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
