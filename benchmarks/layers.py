"""Form 1 against the plain model: training steps, folded inference, and the two conversions.

    python benchmarks/layers.py [--rounds 40]

Each training step is forward, backward and an SGD step in float32 on all threads that torch takes. Plain and
over-parameterized model alternate in one process, after warming up; ``ratio`` is the median quotient of neighbours.
``chained`` and ``folded`` are the same with the execution fixed: what ``auto`` chose between. The last line is one line
of JSON.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

import overdepth as od
from measure import fastest, machine, peak_memory, ratio, reset_peak_memory, timed

EXECUTIONS: tuple[od.nn.Execution, ...] = ("auto", "chained", "folded")


def main() -> None:
    """Runs the benchmark and prints its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    figures: dict[str, object] = {"benchmark": "layers", **machine()}
    x, labels = torch.randn(64, 1, 28, 28), torch.randint(10, (64,))
    convolutional = nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(3136, 512), nn.ReLU(), nn.Dropout(0.5), nn.Linear(512, 10),
    )  # fmt: skip
    figures["paper_cnn"] = _training(
        convolutional, lambda model: F.cross_entropy(model(x), labels), rounds, lambda m, _: isinstance(m, nn.Linear)
    )
    images = torch.randn(64, 64, 32, 32)
    convolution = nn.Conv2d(64, 64, 3, padding=1)
    figures["conv_64_64"] = _training(convolution, lambda model: model(images).square().mean(), rounds)
    tokens = torch.randn(8, 512, 512)
    block = nn.TransformerEncoderLayer(512, 8, 2048, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    figures["transformer_block"] = _training(block, lambda model: model(tokens).square().mean(), max(rounds // 2, 5))
    figures["folded_inference"] = _inference(convolutional, x, rounds)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as fresh:
        for name, embeddings in (("gpt2_small_default", False), ("gpt2_small_with_embeddings", True)):
            figures[name] = fresh.submit(_conversion, embeddings).result()
            print(f"{name}: {figures[name]}")
    print(json.dumps(figures))


def _training(
    model: nn.Module, loss: Callable[[nn.Module], Tensor], rounds: int, select: od.nn.Select | None = None
) -> dict[str, dict[str, float]]:
    plain = _step(copy.deepcopy(model), loss)
    found: dict[str, dict[str, float]] = {}
    for execution in EXECUTIONS:
        ours = copy.deepcopy(model)
        attention = any(isinstance(m, nn.MultiheadAttention) for m in ours.modules())
        if attention and execution == "chained":
            continue  # attention reads its weights as a whole
        od.overparameterize_(ours, depth=2, select=select, execution=execution)
        found[execution] = ratio(_step(ours, loss), plain, rounds)
        print(f"{type(model).__name__}, {execution}: {found[execution]}")
    return found


def _step(model: nn.Module, loss: Callable[[nn.Module], Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        loss(model).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _inference(model: nn.Module, x: Tensor, rounds: int) -> dict[str, object]:
    """The folded model beside the one that was never factored: the same graph, node by node, and the same time."""
    plain = copy.deepcopy(model).eval()
    folded = od.overparameterize_(copy.deepcopy(model)).eval()
    od.collapse_(folded)
    graphs = [
        [(node.op, str(node.target)) for node in torch.export.export(each, (x,)).graph.nodes]
        for each in (plain, folded)
    ]
    with torch.no_grad():
        times = ratio(lambda: folded(x), lambda: plain(x), rounds * 2)
    found: dict[str, object] = {"same_graph": graphs[0] == graphs[1], **times}
    print(f"folded inference: {found}")
    return found


class GPT2Shapes(nn.Module):
    """The weights of GPT-2 small, 124 million parameters, head tied to the embedding; never run."""

    def __init__(self, layers: int = 12, width: int = 768, vocabulary: int = 50257, context: int = 1024) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "ln_1": nn.LayerNorm(width),
                    "c_attn": nn.Linear(width, 3 * width),
                    "c_proj": nn.Linear(width, width),
                    "ln_2": nn.LayerNorm(width),
                    "c_fc": nn.Linear(width, 4 * width),
                    "c_out": nn.Linear(4 * width, width),
                }
            )
            for _ in range(layers)
        )
        self.ln_f = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.wte.weight


def _conversion(embeddings: bool) -> dict[str, float]:
    """Times and peaks of the memory, in a fresh process, so that no earlier allocation hides one."""
    fastest(lambda: torch.randn(512, 512) @ torch.randn(512, 512))
    od.overparameterize_(nn.Linear(64, 64))  # load what is loaded once
    before = reset_peak_memory()
    model = GPT2Shapes()
    size = sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20
    select: od.nn.Select | None = None if not embeddings else lambda m, _: isinstance(m, nn.Linear | nn.Embedding)
    _, there = timed(lambda: od.overparameterize_(model, depth=2, select=select))
    peak_there = peak_memory() - before
    gc.collect()
    reset_peak_memory()
    _, back = timed(lambda: od.collapse_(model))
    peak_back = peak_memory() - before
    return {
        "million_parameters": round(size * 2**20 / 4e6, 1),
        "overparameterize_seconds": round(there, 2),
        "collapse_seconds": round(back, 2),
        "overparameterize_peak_over_model": round(peak_there / size, 2),
        "collapse_peak_over_model": round(peak_back / size, 2),
    }


if __name__ == "__main__":
    main()
