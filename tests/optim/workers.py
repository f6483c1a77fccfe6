"""What two processes do in ``test_factored_distributed.py``: run as a script, it writes its findings as JSON.

Usage: workers.py RANK RENDEZVOUS_FILE RESULT_FILE
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

import overdepth as od

WORLD, STEPS, ROWS = 2, 4, 4
OPTIONS: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}


def network() -> nn.Sequential:
    """The same numbers in every process."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4)).double()


def matrices() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 8, bias=False), nn.Tanh(), nn.Linear(8, 8, bias=False), nn.Linear(8, 4, bias=False)]
    return nn.Sequential(*layers).double()


def factored(model: nn.Module) -> od.optim.Factored:
    groups = od.optim.param_groups(model, depth=3)
    return od.optim.Factored(groups, torch.optim.SGD, **OPTIONS)


def train(model: nn.Module, optimizer: Optimizer, rows: slice, steps: int = STEPS) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(WORLD * ROWS, 6, generator=generator, dtype=torch.float64)
    y = torch.randn(WORLD * ROWS, 4, generator=generator, dtype=torch.float64)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x[rows]) - y[rows]).square().mean().backward()
        optimizer.step()


def gap(a: Iterable[Tensor], b: Iterable[Tensor]) -> float:
    return max(float((x.detach() - y.detach()).abs().max()) for x, y in zip(a, b, strict=True))


def message(function: Callable[[], object]) -> str | None:
    """The type and message of what was raised, None if nothing was."""
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def data_parallel(rows: slice) -> dict[str, Any]:
    model = DistributedDataParallel(network())
    optimizer = factored(model)
    train(model, optimizer, rows)
    one = network()
    train(one, factored(one), slice(None))
    found: dict[str, Any] = {"gap": gap(model.parameters(), one.parameters())}
    found["moved"] = gap(one.parameters(), network().parameters())
    state = get_optimizer_state_dict(model, optimizer, options=StateDictOptions(full_state_dict=True))
    found["names"] = sorted(state["state"])  # on the first rank alone
    other = DistributedDataParallel(network())
    other.load_state_dict(model.state_dict())
    resumed = factored(other)
    whole = get_optimizer_state_dict(model, optimizer)
    set_optimizer_state_dict(other, resumed, whole)
    train(model, optimizer, rows, 2)
    train(other, resumed, rows, 2)
    found["resumed"] = gap(model.parameters(), other.parameters())
    return found


def zero_redundancy(rank: int, rows: slice) -> dict[str, Any]:
    from torch.distributed.optim import ZeroRedundancyOptimizer  # warns on import, which a collector takes for an error

    model, one = DistributedDataParallel(matrices()), matrices()
    options: dict[str, Any] = OPTIONS | {"base": torch.optim.SGD, "depth": 3}
    optimizer = ZeroRedundancyOptimizer(model.parameters(), od.optim.Factored, **options)
    reference = od.optim.Factored(one.parameters(), torch.optim.SGD, depth=3, **OPTIONS)
    train(model, optimizer, rows)
    train(one, reference, slice(None))
    found: dict[str, Any] = {"gap": gap(model.parameters(), one.parameters())}
    held = sum(len(group["params"]) for group in optimizer.optim.param_groups)
    found["held"] = held

    def consolidate() -> None:
        optimizer.consolidate_state_dict(to=0)
        if rank == 0:
            found["entries"] = len(optimizer.state_dict()["state"])

    found["consolidate"] = message(consolidate)

    def groups() -> None:
        grouped = DistributedDataParallel(network())
        own = [{"params": [p], "depth": 2 if p.ndim > 1 else 1} for p in grouped.parameters()]
        sharded = ZeroRedundancyOptimizer(own, od.optim.Factored, base=torch.optim.SGD, **OPTIONS)
        train(grouped, sharded, rows)
        plain = network()
        own = [{"params": [p], "depth": 2 if p.ndim > 1 else 1} for p in plain.parameters()]
        train(plain, od.optim.Factored(own, torch.optim.SGD, **OPTIONS), slice(None))
        found["grouped gap"] = gap(grouped.parameters(), plain.parameters())

    found["groups"] = message(groups)
    return found


def sharded(mesh: Any) -> dict[str, Any]:
    model: Any = fully_shard(network(), mesh=mesh)
    kinds = {type(p).__name__ for p in model.parameters()}
    plain = [{"params": list(model.parameters()), "depth": 1}]
    return {
        "types": sorted(kinds),
        "refused": message(lambda: od.optim.Factored(model.named_parameters(), torch.optim.SGD, lr=0.1)),
        "param_groups": message(lambda: factored(model)),
        "depth 1": message(lambda: train(model, od.optim.Factored(plain, torch.optim.SGD, lr=0.1), slice(None), 1)),
    }


def main() -> None:
    rank, rendezvous, result = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=WORLD)
    mesh = init_device_mesh("cpu", (WORLD,))
    rows = slice(rank * ROWS, (rank + 1) * ROWS)
    found = {
        "data parallel": data_parallel(rows),
        "zero redundancy": zero_redundancy(rank, rows),
        "sharded": sharded(mesh),
    }
    dist.barrier()
    if rank == 0:
        result.write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
