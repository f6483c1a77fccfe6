"""A Ray cluster for the time of a command: joining it, checking it, leaving it. Extra ``ray``."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LOCAL = "local"
RETRIES = 5
"""A task whose worker or node died is tried again elsewhere so often."""

LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's switch that, at 0, keeps a cluster on 127.0.0.1, on every system; else it listens to the outside."""
KNOCK_SECONDS = 10.0


@contextmanager
def cluster(address: str, *, cpus: int = 1) -> Iterator[Any]:
    """Connects, gives the module ``ray``, and leaves again; tasks that still run then are ended by Ray.

    Args:
        address: ``"local"``: a cluster of this machine's cores, which listens on 127.0.0.1 alone and ends with the
            block; ``"auto"`` or ``host:port``: one that runs.
        cpus: What a task will ask for.

    Raises:
        ModuleNotFoundError: If Ray is not installed.
        ConnectionError: If there is no cluster at the address.
        ValueError: If no node has so many cores, or Ray was imported before and would listen to the outside.
    """
    if address == LOCAL:
        keep_local()
    ray = _ray()
    if address == LOCAL and ray._private.ray_constants.ENABLE_RAY_CLUSTER:
        raise ValueError(
            f"Ray was imported before it was told to stay on this machine; set {LOOPBACK}=0, or import it later."
        )
    try:
        _connect(ray, address)
        _check_cpus(ray, cpus)
        yield ray
    finally:
        ray.shutdown()


def keep_local() -> None:
    """Tells Ray to keep a cluster of its own on 127.0.0.1; it listens when it is imported, and not later."""
    if "ray" not in sys.modules:
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # as it would choose, but it would say so on every run
        os.environ.setdefault(LOOPBACK, "0")


def check_ray_cpus(address: str | None, cpus: int | None) -> None:
    """Checks the options ``--ray`` and ``--ray-cpus`` of a command.

    Raises:
        ValueError: If the second is no number of cores, or stands without the first.
    """
    if cpus is not None and cpus < 1:
        raise ValueError(f"--ray-cpus is {cpus}, expected a number >= 1.")
    if cpus is not None and address is None:
        raise ValueError("--ray-cpus is for runs on Ray; add --ray, or leave it out.")


def slots(ray: Any, cpus: int) -> int:
    """How many tasks of so many cores the cluster takes at once; at least one."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)) // cpus)


def lost(error: Exception) -> str:
    """What to say of a task that gave no result, wherever it was tried."""
    return f"a task was lost, with {RETRIES} more tries ({_reason(error)})"


def _reason(error: Exception) -> str:
    """The first line of what an error says."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _connect(ray: Any, address: str) -> None:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    if address == LOCAL:
        options |= {"address": LOCAL, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    else:
        options |= {"address": address}
    handler = signal.getsignal(signal.SIGTERM)
    is_main = threading.current_thread() is threading.main_thread()  # which alone may set handlers
    try:
        _knock(address)
        ray.init(**options)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConnectionError(
            f"no Ray cluster at {address!r} ({_reason(error)}); start one with 'ray start --head', or leave the "
            f"address out."
        ) from error
    finally:
        if is_main and handler is not None:
            signal.signal(signal.SIGTERM, handler)  # Ray puts its own in place, which ends the process at once


def _knock(address: str) -> None:
    """Finds out within seconds that nobody answers at ``host:port``; Ray itself would try for minutes.

    Raises:
        OSError: If nobody does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS):
            pass


def _check_cpus(ray: Any, cpus: int) -> None:
    """Checks that a task fits some node; it would wait for ever.

    Raises:
        ValueError: If none of the nodes that are there has so many cores.
    """
    most = max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=0)
    if cpus > most:
        raise ValueError(f"--ray-cpus is {cpus}, but the largest node of the cluster has {most}; lower it.")


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "--ray needs Ray, which is not installed; install the extra: pip install 'overdepth[ray]'.", name="ray"
        ) from error
    return ray
