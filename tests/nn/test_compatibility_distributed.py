"""Several processes: DDP and FSDP2 train factors as one process does; what cannot be done right is refused.

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
import torch
import torch.distributed as dist

import overdepth as od

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="this torch has no gloo"),
]
WORKER = Path(__file__).with_name("workers.py")
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
SHARDED = ["sharded", "sharded by layer"]


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


def plain_keys(prefix: str = "") -> list[str]:
    return [f"{prefix}{key}" for key in ("0.weight", "0.bias", "2.weight", "2.bias", "4.weight")]


def assert_refused(message: str | None, part: str) -> None:
    assert message is not None, "there was no refusal"
    assert message.startswith("ValueError: ")
    assert part in message


@pytest.mark.parametrize("how", ["data parallel", *SHARDED])
def test_two_processes_train_as_one_with_the_same_total_batch(found: dict[str, Any], how: str) -> None:
    assert found["data parallel"]["moved"] > 0.05
    assert found[how]["gap"] < 1e-6


def test_a_data_parallel_model_folds(found: dict[str, Any]) -> None:
    of = found["data parallel"]
    assert of["weights"] == [f"module.{i}.weight" for i in (0, 2, 4)]
    assert of["keys"][:4] == ["module.0.bias", *[f"module.0.parametrizations.weight.factor{j}" for j in range(3)]]
    assert of["folded keys"] == plain_keys("module.")
    assert of["folded"] < 1e-5


def test_a_model_inside_ddp_is_refused(found: dict[str, Any]) -> None:
    """DDP knows only the parameters that it was built with: factors would drift apart, process by process."""
    assert_refused(found["data parallel"]["late"], "DistributedDataParallel")


@pytest.mark.parametrize("how", SHARDED)
def test_sharded_layers_are_still_layers_with_factors(found: dict[str, Any], how: str) -> None:
    assert found[how]["types"] == ["DTensor"]
    assert found[how]["isinstance"]
    assert found[how]["keys"][1] == "0.parametrizations.weight.factor0"


@pytest.mark.parametrize("how", SHARDED)
def test_sharded_factors_are_not_folded_and_sharded_weights_not_factored(found: dict[str, Any], how: str) -> None:
    assert_refused(found[how]["collapse"], "'0.weight' has sharded factors")
    assert_refused(found[how]["overparameterize"], "'0.weight' cannot be over-parameterized: it is a sharded DTensor")
    assert_refused(found[how]["overparameterize"], "before fully_shard")


@pytest.mark.parametrize("how", SHARDED)
def test_neither_are_those_that_are_gathered_for_the_moment(found: dict[str, Any], how: str) -> None:
    """After a forward without a backward the outermost group's parameters are plain tensors, which FSDP still owns."""
    for call in ("collapse", "overparameterize"):
        assert_refused(found[how][f"{call} after a forward"], "shard")


@pytest.mark.parametrize("how", SHARDED)
def test_the_state_dict_is_the_way_out_and_in(found: dict[str, Any], how: str) -> None:
    assert found[how]["gathered"] < 1e-5
    assert found[how]["loaded"] < 1e-5


@pytest.mark.parametrize("function", ["plain_state_dict", "factored_state_dict"])
@pytest.mark.parametrize("how", SHARDED)
def test_a_sharded_state_dict_has_to_be_gathered_before_it_is_converted(
    found: dict[str, Any], how: str, function: str
) -> None:
    """A product of shards communicates, and was seen to give garbage."""
    assert_refused(found[how][function], "shard")
    assert_refused(found[how][function], "'0.weight'")


@pytest.mark.skipif(dist.is_available() and dist.is_initialized(), reason="needs a process without a group")
def test_a_dtensor_is_refused_in_a_single_process_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    monkeypatch.setenv("GLOO_SOCKET_IFNAME", LOOPBACK)
    dist.init_process_group("gloo", store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1)
    try:
        layer = torch.nn.Linear(4, 4)
        mesh = init_device_mesh("cpu", (1,))
        layer.weight = torch.nn.Parameter(distribute_tensor(layer.weight.detach(), mesh, [Shard(0)]))
        with pytest.raises(ValueError, match=r"'weight' cannot be over-parameterized: it is a sharded DTensor"):
            od.overparameterize_(layer)
    finally:
        dist.destroy_process_group()
