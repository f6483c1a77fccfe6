"""What two processes do in ``test_compatibility_distributed.py``: run as a script, it writes its findings as JSON.

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
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import overdepth as od

WORLD, STEPS, ROWS = 2, 4, 4


def network(*, depth: int = 1) -> nn.Sequential:
    """The same numbers in every process."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4, bias=False))
    return model if depth == 1 else od.overparameterize_(model, depth)  # type: ignore[return-value]


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(WORLD * ROWS, 6, generator=generator), torch.randn(WORLD * ROWS, 4, generator=generator)


def train(model: nn.Module, rows: slice) -> None:
    x, y = data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9, weight_decay=0.01)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (model(x[rows]) - y[rows]).square().mean().backward()
        optimizer.step()


def single_process() -> nn.Sequential:
    model = network(depth=3)
    train(model, slice(None))
    return model


def gap(a: Iterable[Tensor], b: Iterable[Tensor]) -> float:
    return max(float((x.detach() - y.detach()).abs().max()) for x, y in zip(a, b, strict=True))


def full(parameters: Iterable[Any]) -> list[Tensor]:
    return [p.full_tensor() for p in parameters]


def message(function: Callable[[], object]) -> str | None:
    """The type and message of what was raised, None if nothing was."""
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def data_parallel(rank: int) -> dict[str, Any]:
    rows = slice(rank * ROWS, (rank + 1) * ROWS)
    model = DistributedDataParallel(network(depth=3))
    train(model, rows)
    one = single_process()
    found: dict[str, Any] = {
        "gap": gap(model.parameters(), one.parameters()),
        "moved": gap(one.parameters(), network(depth=3).parameters()),
        "keys": list(model.state_dict()),
    }
    x, _ = data()
    expected = model(x)
    found["weights"] = [w.name for w in od.collapse_(model).weights]
    found["folded"] = gap([model(x)], [expected])
    found["folded keys"] = list(model.state_dict())
    found["late"] = message(lambda: od.overparameterize_(DistributedDataParallel(network())))
    return found


def sharded(rank: int, mesh: Any, *, by_layer: bool) -> dict[str, Any]:
    """FSDP2 on the whole model, or on every layer too."""

    def shard(model: nn.Sequential) -> Any:
        for layer in model if by_layer else ():
            if isinstance(layer, nn.Linear):
                fully_shard(layer, mesh=mesh)
        return fully_shard(model, mesh=mesh)

    model, one = shard(network(depth=3)), single_process()
    x, _ = data()
    train(model, slice(rank * ROWS, (rank + 1) * ROWS))
    found: dict[str, Any] = {
        "gap": gap(full(model.parameters()), one.parameters()),
        "types": sorted({type(p).__name__ for p in model.parameters()}),
        "isinstance": isinstance(model[0], nn.Linear),
        "collapse": message(lambda: od.collapse_(model)),
        "keys": list(model.state_dict()),
        "overparameterize": message(lambda: od.overparameterize_(shard(network()))),
    }
    plain = network()
    gathered: Any = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    if rank == 0:
        plain.load_state_dict(od.nn.plain_state_dict(gathered, plain))
        found["gathered"] = gap([plain(x)], [one(x)])
    found["plain_state_dict"] = message(lambda: od.nn.plain_state_dict(model.state_dict(), plain))
    found["factored_state_dict"] = message(
        lambda: od.nn.factored_state_dict(shard(network()).state_dict(), network(depth=3))
    )

    other = shard(network(depth=3))
    converted: dict[str, Any] = od.nn.factored_state_dict(od.collapse(one)[0].state_dict(), network(depth=3))
    set_model_state_dict(other, converted, options=StateDictOptions(full_state_dict=True))
    with torch.no_grad():
        found["loaded"] = gap([other(x)], [one(x)])
        fresh = shard(network())
        fresh(x), model(x)  # which leaves the outermost group's parameters gathered, as plain tensors
    found["collapse after a forward"] = message(lambda: od.collapse_(model))
    found["overparameterize after a forward"] = message(lambda: od.overparameterize_(fresh))
    return found


def main() -> None:
    rank, rendezvous, result = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=WORLD)
    mesh = init_device_mesh("cpu", (WORLD,))
    found = {
        "data parallel": data_parallel(rank),
        "sharded": sharded(rank, mesh, by_layer=False),
        "sharded by layer": sharded(rank, mesh, by_layer=True),
    }
    dist.barrier()
    if rank == 0:
        result.write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
