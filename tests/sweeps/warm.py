"""A process that has imported everything, and runs commands in forks of itself: kills cost no imports.

Reads lines of JSON from stdin: the arguments of a command, and after how many seconds, if ever, which signal is sent to
it. Answers each with a line of JSON: how the command ended, how long it took, what it printed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from overdepth.cli import main
from overdepth.commands import app
from overdepth.lab import load_problem


def run(arguments: list[str], seconds: float | None, number: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        files = [Path(name) / "out", Path(name) / "err"]
        began = time.perf_counter()
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            for handle, path in zip((1, 2), files, strict=True):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), handle)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            status = main(arguments)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        if seconds is not None:
            time.sleep(seconds)
            with suppress(ProcessLookupError):
                os.kill(child, number)
        _, ended = os.waitpid(child, 0)
        took = time.perf_counter() - began
        try:
            os.killpg(child, 0)
            orphans = True
        except ProcessLookupError:
            orphans = False
        out, err = (path.read_text(encoding="utf-8") for path in files)
    return {
        "status": os.waitstatus_to_exitcode(ended),
        "seconds": took,
        "out": out,
        "err": err,
        "orphans": orphans,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    load_problem("breast-cancer")  # whatever it imports
    assert app.program() is not None
    for line in sys.stdin:
        request = json.loads(line)
        sys.stdout.write(json.dumps(run(request["arguments"], request["seconds"], request["signal"])) + "\n")
        sys.stdout.flush()
