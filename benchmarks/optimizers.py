"""Step times of the optimizers of forms 2 and 3 beside those of torch.optim and of pytorch_optimizer.

    python benchmarks/optimizers.py [--rounds 15]

One weight of each shape, float32, all threads that torch takes; our step and Muon's alternate in one process, and
``over_muon`` is the median quotient of neighbours. ``tracked`` does more where the weight turns: it is run where the
weight moves by 1e-4, 1e-3 and 1e-2 of its norm a step in one direction, and its ``over_muon`` is the quotient of the
total times. ``in_gemms`` is the step in units of one float32 product
(k, k) x (k, d) by torch.mm: Muon multiplies in bfloat16, and how fast that is depends on the processor. Accuracy is
that of one preconditioned gradient relative to float64 NumPy, by condition number, the worst of N = 2, 3, 5. Shampoo,
SOAP and Kron need the package pytorch_optimizer; without it they are left out. The last line is one line of JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import overdepth as od
from measure import machine, ratio
from overdepth.gemm import matmul
from overdepth.optim.rules import precondition

SHAPES = ((1024, 1024), (768, 3072), (512, 3136))
DEPTHS = (2, 3, 2.5)
SPEEDS = (1e-4, 1e-3, 1e-2)


def main() -> None:
    """Runs the benchmark and prints its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    figures: dict[str, object] = {"benchmark": "optimizers", **machine()}
    for shape in SHAPES:
        figures["x".join(map(str, shape))] = _steps(shape, rounds)
    figures["single_outputs"] = _single_outputs(rounds)
    figures["accuracy"] = _accuracy()
    figures["state_bytes_without_momentum"] = _state_bytes()
    print(json.dumps(figures))


def _steps(shape: tuple[int, int], rounds: int) -> dict[str, dict[str, float]]:
    k, d = shape
    square, weight = torch.randn(k, k), torch.randn(k, d)
    ours: dict[str, Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]] = {
        "factored_sgd_2": lambda p: od.optim.Factored(p, torch.optim.SGD, depth=2, lr=1e-4),
        "factored_adamw_2": lambda p: od.optim.Factored(p, torch.optim.AdamW, depth=2, lr=1e-4),
    }
    for method in ("eigh_float32", "eigh"):
        for depth in DEPTHS:
            ours[f"{method}_{depth:g}"] = lambda p, method=method, depth=depth: od.optim.EndToEndSGD(  # type: ignore[misc]
                p, 1e-4, depth=depth, method=method
            )
    for speed in SPEEDS:
        for depth in DEPTHS:
            ours[f"tracked_{depth:g}_moving_{speed:g}"] = lambda p, depth=depth, speed=speed: od.optim.EndToEndSGD(  # type: ignore[misc]
                p, _learning_rate(p[0], depth, speed), depth=depth, method="tracked"
            )
    ours["adamw"] = lambda p: torch.optim.AdamW(p, lr=1e-4)
    if importlib.util.find_spec("pytorch_optimizer"):
        for name in ("Shampoo", "SOAP", "Kron"):
            cls = getattr(importlib.import_module("pytorch_optimizer"), name)
            ours[name.lower()] = lambda p, cls=cls: cls(p, lr=1e-4)  # type: ignore[misc]
    muon = _stepper(lambda p: torch.optim.Muon(p, lr=1e-4), shape)
    gemm = ratio(lambda: matmul(square, weight), lambda: square @ weight, rounds)
    found: dict[str, dict[str, float]] = {"gemm": {"onednn_over_mm": gemm["ratio"], "mm_ms": gemm["theirs_ms"]}}
    for name, make in ours.items():
        try:
            times = ratio(_stepper(make, shape), muon, rounds * (2 if name.startswith("tracked") else 1))
        except RuntimeError as error:  # Kron asks for terabytes where its einsum has no good order
            print(f"{shape} {name}: {str(error).splitlines()[0]}")
            continue
        found[name] = {
            "ms": times["ours_ms"],
            "over_muon": times["of_sums" if name.startswith("tracked") else "ratio"],
            "in_gemms": round(times["ours_ms"] / gemm["theirs_ms"], 2),
        }
        if name == "factored_sgd_2":
            three = ratio(_stepper(make, shape), lambda: [matmul(square, weight) for _ in range(3)], rounds)
            found[name]["over_three_gemms"] = three["ratio"]
        found["muon"] = {"ms": times["theirs_ms"], "in_gemms": round(times["theirs_ms"] / gemm["theirs_ms"], 2)}
        print(f"{shape} {name}: {found[name]}")
    return found


def _learning_rate(p: torch.nn.Parameter, depth: float, speed: float) -> float:
    """With which the first step moves the weight by a fraction of its norm."""
    assert p.grad is not None
    return speed * float(p.detach().norm() / precondition(p.detach(), p.grad, depth).norm())


def _stepper(make: Callable[[list[torch.nn.Parameter]], Any], shape: tuple[int, int]) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(0)
    p = torch.nn.Parameter(torch.randn(shape, generator=generator) / math.sqrt(shape[1]))
    p.grad = torch.randn(shape, generator=generator) / 100
    optimizer = make([p])

    def step() -> None:
        optimizer.step()

    return step


def _single_outputs(rounds: int) -> dict[str, float]:
    def make(cls: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]) -> Callable[[], None]:
        generator = torch.Generator().manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(1, 1024, generator=generator)) for _ in range(200)]
        for p in params:
            p.grad = torch.randn(1, 1024, generator=generator)
        optimizer = cls(params)

        def step() -> None:
            optimizer.step()

        return step

    ours = make(lambda p: od.optim.EndToEndSGD(p, 1e-6, depth=3))
    found = ratio(ours, make(lambda p: torch.optim.SGD(p, lr=1e-6, foreach=True)), rounds * 5)
    print(f"200 single outputs of size 1024, over torch.optim.SGD(foreach=True): {found}")
    return found


def _accuracy() -> dict[str, dict[str, float]]:
    """Relative errors against float64 NumPy: the largest of N = 2, 3, 5 for each condition number."""
    found: dict[str, dict[str, float]] = {"eigh": {}, "eigh_float32": {}}
    rng = np.random.default_rng(0)
    u, v = np.linalg.qr(rng.standard_normal((256, 256)))[0], np.linalg.qr(rng.standard_normal((512, 256)))[0]
    grad = rng.standard_normal((256, 512)).astype(np.float32)
    for exponent in range(1, 7):
        weight = ((u * np.logspace(0, -exponent, 256)) @ v.T).astype(np.float32)
        for method, errors in found.items():
            worst = 0.0
            for depth in (2, 3, 5):
                exact = _reference(weight.astype(np.float64), grad.astype(np.float64), depth)
                update = precondition(torch.from_numpy(weight), torch.from_numpy(grad), depth, method)  # type: ignore[arg-type]
                worst = max(worst, float(np.linalg.norm(update.double().numpy() - exact) / np.linalg.norm(exact)))
            errors[f"1e{exponent}"] = float(f"{worst:.1e}")
    print(f"accuracy: {found}")
    return found


def _reference(weight: np.ndarray[Any, Any], grad: np.ndarray[Any, Any], depth: int) -> np.ndarray[Any, Any]:
    """sum_j [W W^T]^((N-j)/N) G [W^T W]^((j-1)/N) through full singular value decompositions."""
    u, s, vh = np.linalg.svd(weight, full_matrices=True)
    left, right = np.zeros(len(u)), np.zeros(len(vh))
    left[: len(s)] = right[: len(s)] = s
    terms = range(1, depth + 1)
    inner = sum(left[:, None] ** (2 * (depth - j) / depth) * right ** (2 * (j - 1) / depth) for j in terms)
    result: np.ndarray[Any, Any] = u @ (inner * (u.T @ grad @ vh.T)) @ vh
    return result


def _state_bytes() -> int:
    layer = torch.nn.Linear(64, 32, bias=False)
    optimizer = od.optim.EndToEndSGD(layer.parameters(), 0.1, depth=3)
    layer(torch.randn(2, 64)).sum().backward()
    optimizer.step()
    return sum(t.numel() * t.element_size() for state in optimizer.state.values() for t in state.values())


if __name__ == "__main__":
    main()
