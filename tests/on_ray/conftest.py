"""A real Ray cluster of this machine."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator

import pytest
from tests.on_ray.processes import MARK, processes, until

from overdepth import ray_cluster

NAME = uuid.uuid4().hex


@pytest.fixture(scope="package")
def mark() -> Iterator[str]:
    """Whatever is started from here on carries it, and finds the package where these tests find it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(MARK, NAME)
        patched.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patched.setenv("OMP_NUM_THREADS", "1")
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # All processes of the cluster share a token, this one too: it must not have imported Ray before.
        patched.setenv("RAY_AUTH_MODE", "token")
        patched.setenv("RAY_AUTH_TOKEN", NAME)
        # Ray takes 127.0.0.1 for this machine's address to the outside, where nothing of ours listens.
        patched.setenv(ray_cluster.LOOPBACK, "0")
        patched.setattr("ray._private.services.get_node_ip_address", lambda address=None: "127.0.0.1")
        yield NAME


@pytest.fixture(scope="package")
def address(mark: str) -> Iterator[str]:
    """A cluster of two nodes of a core each, on 127.0.0.1 alone."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "include_dashboard": False, "node_ip_address": "127.0.0.1"}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1")
    try:
        yield cluster.address
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]
        assert until(lambda: not processes(mark))
