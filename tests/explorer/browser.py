"""A headless Chromium, driven by its own protocol: pages are opened, looked at, and clicked as a reader would."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE_S = 60.0


class Page:
    """A page in the browser.

    Attributes:
        problems: What was written to its console as an error, exceptions, and requests that failed or left the machine.
    """

    def __init__(self, connection: ClientConnection) -> None:
        self.problems: list[str] = []
        self._connection = connection
        self._number = 0
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def stop_noting_requests(self) -> None:
        """For timings: telling of every request takes the browser longer than many of them."""
        self.send("Network.disable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends a command and returns its result; what is reported meanwhile is noted."""
        self._number += 1
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(timeout=PATIENCE_S))
            if message.get("id") == self._number:
                assert "error" not in message, (method, message["error"])
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def evaluate(self, script: str) -> Any:
        """The value of a script, which may be a promise."""
        found = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, script: str, patience: float = PATIENCE_S, every: float = 0.05) -> Any:
        """The first value of a script that is true, which is asked for so often."""
        end = time.monotonic() + patience
        while not (value := self.evaluate(script)):
            assert time.monotonic() < end, (script, self.problems, self.evaluate("document.body.innerText")[:2000])
            time.sleep(every)
        return value

    def open(self, url: str, *, width: int, height: int = 900) -> None:
        """Opens a page in a window of this size."""
        self.resize(width, height)
        self.send("Page.navigate", url=url)

    def resize(self, width: int, height: int = 900) -> None:
        """Gives the window another size; one below 600 is a phone's."""
        mobile = width < 600
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

    def press(self, key: str, times: int = 1) -> None:
        """Presses a key on what has the focus."""
        for _ in range(times):
            for kind in ("keyDown", "keyUp"):
                self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=_KEYS[key])

    def drag(self, start: tuple[float, float], by: float) -> None:
        """Drags the mouse sideways in small moves."""
        x, y = start
        self.send("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, button="left", clickCount=1)
        for i in range(1, 11):
            self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x + by * i / 10, y=y, button="left")
            time.sleep(0.05)
        self.send("Input.dispatchMouseEvent", type="mouseReleased", x=x + by, y=y, button="left", clickCount=1)

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """Writes a screenshot, of the whole page by default."""
        shot = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _note(self, message: dict[str, Any]) -> None:
        method, found = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            details = found["exceptionDetails"]
            self.problems.append(f"exception: {details.get('exception', {}).get('description', details['text'])}")
        elif method == "Runtime.consoleAPICalled" and found["type"] in ("error", "assert"):
            self.problems.append(f"console: {[part.get('value', part.get('description')) for part in found['args']]}")
        elif method == "Log.entryAdded" and found["entry"]["level"] == "error":
            self.problems.append(f"log: {found['entry']['text']} {found['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            url = found["request"]["url"]
            if not re.match(r"(https?|wss?)://(127\.0\.0\.1|localhost)[:/]|data:|blob:|about:|chrome", url):
                self.problems.append(f"a request to elsewhere: {url}")


_KEYS = {"ArrowRight": 39, "ArrowLeft": 37, "Home": 36, "End": 35}


@contextlib.contextmanager
def opened(profile: Path) -> Iterator[Page]:
    """A page in a browser of its own, which goes with it."""
    process = subprocess.Popen(  # noqa: S603 - a browser on our own pages
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            "--no-first-run", "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        port = _debugging_port(process, profile / "DevToolsActivePort")
        with connect(_target(port), max_size=None) as connection:
            yield Page(connection)
    finally:
        process.terminate()
        process.wait(timeout=30)


def _debugging_port(process: subprocess.Popen[bytes], file: Path) -> int:
    end = time.monotonic() + PATIENCE_S
    while not (file.is_file() and file.read_text(encoding="utf-8").count("\n")):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    return int(file.read_text(encoding="utf-8").splitlines()[0])


def _target(port: int) -> str:
    """The address of the first page."""
    from urllib.request import urlopen

    end = time.monotonic() + PATIENCE_S
    while True:
        with urlopen(f"http://127.0.0.1:{port}/json") as answer:
            pages = [target for target in json.load(answer) if target["type"] == "page"]
        if pages:
            return str(pages[0]["webSocketDebuggerUrl"])
        assert time.monotonic() < end
        time.sleep(0.05)
