"""A Ray cluster for the time of a command: joining it, checking it, leaving it. Extra ``ray``."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
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
    """Connects, gives the module ``ray``, and leaves again.

    Args:
        address: ``"local"``: a cluster of this machine's cores, which listens on 127.0.0.1 alone and ends with the
            block; ``"auto"`` or ``host:port``: one that runs.
        cpus: What a task will ask for.

    Raises:
        ModuleNotFoundError: If Ray is not installed.
        ConnectionError: If there is no cluster at the address.
        ValueError: If no node has so many cores.
    """
    if address == LOCAL and "ray" not in sys.modules:  # it reads these when it is imported
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # as it would choose, but it would say so on every run
        os.environ.setdefault(LOOPBACK, "0")
    ray = _ray()
    _connect(ray, address)
    try:
        _check_cpus(ray, cpus)
        yield ray
    finally:
        ray.shutdown()


def slots(ray: Any, cpus: int) -> int:
    """How many tasks of so many cores the cluster takes at once; at least one."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)) // cpus)


def lost(error: Exception) -> str:
    """What to say of a task that was lost, whoever it was tried by."""
    reason = str(error).strip().splitlines()[0]
    return f"a task was lost {RETRIES + 1} times ({reason})"


def _connect(ray: Any, address: str) -> None:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    if address == LOCAL:
        options |= {"address": LOCAL, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    else:
        options |= {"address": address}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _knock(address)
        ray.init(**options)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConnectionError(
            f"no Ray cluster at {address!r} ({reason}); start one with 'ray start --head', or leave the address out."
        ) from error
    finally:
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
