"""Several processes: DDP needs nothing, ZeRO-1 works, sharded parameters are refused.

Two processes talk over gloo on the loopback interface; see ``workers.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="this torch has no gloo"),
]
WORKER = Path(__file__).with_name("workers.py")
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("two_processes")
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": LOOPBACK, "OMP_NUM_THREADS": "1"}
    arguments = [str(folder / "rendezvous"), str(folder / "result.json")]
    logs = [(folder / f"log{rank}").open("w+") for rank in range(2)]
    processes = [
        subprocess.Popen([sys.executable, str(WORKER), str(rank), *arguments], env=environment, stdout=log, stderr=log)  # noqa: S603
        for rank, log in enumerate(logs)
    ]
    try:
        codes = [process.wait(timeout=200) for process in processes]
    finally:
        for process in processes:
            process.kill()
        said = []
        for log in logs:
            log.seek(0)
            said.append(log.read())
            log.close()
    assert codes == [0, 0], "\n".join(said)
    result: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return result


def test_data_parallel_is_one_process_with_the_same_total_batch(found: dict[str, Any]) -> None:
    assert found["data parallel"]["moved"] > 0.05
    assert found["data parallel"]["gap"] < 1e-13


def test_the_state_of_a_data_parallel_run_goes_through_torchs_distributed_state_dict(found: dict[str, Any]) -> None:
    """Under the parameters' plain names, and bit for bit."""
    assert found["data parallel"]["names"] == sorted(f"{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias"))
    assert found["data parallel"]["resumed"] == 0


def test_zero_redundancy_is_one_process(found: dict[str, Any]) -> None:
    of = found["zero redundancy"]
    assert of["held"] in (1, 2)  # of three: the rest is the other process's
    assert of["gap"] < 1e-13


def test_zero_redundancy_takes_groups_of_their_own_depth(found: dict[str, Any]) -> None:
    assert found["zero redundancy"]["groups"] is None
    assert found["zero redundancy"]["grouped gap"] < 1e-13


def test_zero_redundancy_gathers_the_state(found: dict[str, Any]) -> None:
    assert found["zero redundancy"]["consolidate"] is None
    assert found["zero redundancy"]["entries"] == 3


def test_sharded_parameters_are_refused_by_name(found: dict[str, Any]) -> None:
    of = found["sharded"]
    assert of["types"] == ["DTensor"]
    assert of["refused"].startswith("TypeError: '0.weight' is a sharded DTensor, and the rule needs whole matrices")


def test_a_sharded_model_is_not_trained_plain_in_silence(found: dict[str, Any]) -> None:
    """``param_groups`` with its defaults would leave every weight at depth 1."""
    of = found["sharded"]
    assert of["param_groups"] is not None
    assert "'0.weight'" in of["param_groups"]
    assert "shard" in of["param_groups"]


def test_sharded_parameters_of_depth_1_go_to_the_base(found: dict[str, Any]) -> None:
    assert found["sharded"]["depth 1"] is None
