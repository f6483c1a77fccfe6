"""Devices: what can be told of a GPU without one.

The engine runs on torch's meta device, whose tensors have shapes but no entries, and every operation is looked at: one
whose arguments lie on two devices would fail on a GPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import overdepth.lab.engine
from overdepth.lab import Problem, Run, RunCache, grid, objective, sweep
from overdepth.lab.devices import available_device, matmul_precision
from overdepth.lab.engine import Engine
from overdepth.lab.grouping import make_groups
from overdepth.lab.run import METHODS
from overdepth.lab.settings import Settings

HAS_CUDA = torch.cuda.is_available()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_problem(k: int = 1, *, classes: bool = False) -> Problem:
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(40, 5)), rng.normal(size=(40, k))
    if classes:
        Y = np.eye(k)[Y.argmax(axis=1)] if k > 1 else (Y > 0).astype(np.float64)
    return Problem(X, Y)


def every_kind(k: int) -> list[Run]:
    """Every kind of group: all methods, scalar chains and matrices, with weight decay and without."""
    decay = [0.0, 0.1]
    return [
        *grid(depth=[1, 2, 3, 4], method=METHODS, weight_decay=decay, lr=1e-3, scale=0.3),
        *grid(depth=[2, 3], width=k + 1, method=METHODS, weight_decay=decay, lr=1e-3, scale=0.3),
    ]


# --- settings


@pytest.mark.parametrize("device", ["gpu", "mps", "meta", "", "cuda:x", "cuda:-1", None, 0])
def test_an_unknown_device_is_refused_with_the_known_ones(device: Any) -> None:
    with pytest.raises(ValueError, match=r"device is .*'cpu', 'cuda' or 'cuda:N'\.") as caught:
        Settings(5, device=device)
    assert "\n" not in str(caught.value)


def test_tf32_is_for_gpus() -> None:
    assert Settings(5, device="cuda", allow_tf32=True).allow_tf32
    assert not Settings(5, device="cuda").allow_tf32
    with pytest.raises(ValueError, match="allow_tf32 is True on device 'cpu'"):
        Settings(5, allow_tf32=True)
    with pytest.raises(ValueError, match="allow_tf32 is 'yes'"):
        Settings(5, device="cuda", allow_tf32="yes")  # type: ignore[arg-type]


def test_a_device_is_known_by_one_name() -> None:
    assert Settings(5).device == Settings(5, device="cpu:0").device == "cpu"
    assert Settings(5, device="cuda:1").device == "cuda:1"


@pytest.mark.skipif(HAS_CUDA, reason="this machine has the device")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_device_that_is_not_there_is_one_sentence(device: str) -> None:
    with pytest.raises(ValueError, match=f"device is '{device}', but torch sees no CUDA device") as caught:
        sweep(make_problem(), [Run()], steps=3, device=device)
    assert "\n" not in str(caught.value)
    assert "use device 'cpu'" in str(caught.value)


def test_a_number_beyond_the_devices_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert available_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ValueError, match=r"sees 2 CUDA devices.*below 2"):
        available_device("cuda:2")


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("before", [False, True])
def test_tf32_is_as_asked_for_during_the_products_and_as_before_afterwards(*, asked: bool, before: bool) -> None:
    matmul = torch.backends.cuda.matmul
    kept = matmul.allow_tf32
    try:
        matmul.allow_tf32 = before
        with matmul_precision(torch.device("cuda"), allow_tf32=asked):
            assert matmul.allow_tf32 == asked
        assert matmul.allow_tf32 == before
        with matmul_precision(torch.device("cpu"), allow_tf32=False):
            assert matmul.allow_tf32 == before
    finally:
        matmul.allow_tf32 = kept


def test_the_cache_tells_kinds_of_devices_apart_but_not_their_numbers() -> None:
    def key(**options: Any) -> str:
        return RunCache("unused").keys(make_problem(), "l4", [Run()], Settings(5, **options))[0]

    keys = [key(), key(device="cuda"), key(device="cuda", allow_tf32=True)]
    assert len(set(keys)) == 3
    assert key(device="cuda:1") == keys[1]


# --- where tensors are


class OneDevice(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses operations on tensors of two devices, copies from one to the other and single numbers aside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.ndim]
        devices = {tensor.device.type for tensor in tensors}
        if func not in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            assert len(devices) <= 1, (func, [tuple(tensor.shape) for tensor in tensors])
        self.operations += devices == {"meta"}
        return func(*args, **(kwargs or {}))


def _ones(tensor: Tensor) -> NDArray[Any]:
    """What a result is taken for once it is brought back: all finite."""
    assert tensor.device.type == "meta"
    dtype = {torch.bool: np.bool_, torch.float64: np.float64}[tensor.dtype]
    return np.ones(tuple(tensor.shape), dtype=dtype)


def test_the_guard_of_this_test_does_refuse_two_devices() -> None:
    with OneDevice(), pytest.raises(AssertionError):
        torch.ones(3, 4, device="meta") @ torch.ones(4)


CASES = [
    (1, "l2", None), (1, "l4", None), (1, "l6", None), (1, "logistic", None), (1, "l4", 8), (1, "l2", 8),
    (3, "l4", None), (3, "cross_entropy", None), (3, "cross_entropy", 8),
]  # fmt: skip


@pytest.mark.parametrize(("k", "name", "batch_size"), CASES)
def test_training_and_recording_stay_on_the_device(
    monkeypatch: pytest.MonkeyPatch, k: int, name: str, batch_size: int | None
) -> None:
    problem = make_problem(k, classes=name in ("logistic", "cross_entropy"))
    runs, settings = every_kind(k), Settings(6, record_every=2, batch_size=batch_size)
    monkeypatch.setattr(overdepth.lab.engine, "available_device", lambda _: torch.device("meta"))
    monkeypatch.setattr(overdepth.lab.engine, "to_numpy", _ones)
    with OneDevice() as guard:
        engine = Engine(problem, runs, objective(name), settings)
        state = engine.start()
        for group in state.groups:
            group.keep(torch.arange(len(group.index))[::2])
        engine.advance(state)
    assert state.step == 6
    assert guard.operations > 100
    for group in state.groups:
        assert group.index.device.type == "cpu"
        assert {getattr(group, tensor).device.type for tensor in group.tensors} == {"meta"}


@pytest.mark.parametrize("k", [1, 3])
def test_a_state_is_of_tensors_on_the_cpu_and_can_be_taken_over(k: int) -> None:
    runs = every_kind(k)
    groups = make_groups(runs, k, 5, torch.float32, torch.device("cpu"))
    others = make_groups([Run(**{**run.__dict__, "seed": 1}) for run in runs], k, 5, torch.float32, torch.device("cpu"))
    for group, other in zip(groups, others, strict=True):
        state = group.state()
        assert all(tensor.device.type == "cpu" for tensor in state.values())
        other.load_state(state)
        for name, tensor in other.state().items():
            assert torch.equal(tensor, state[name])
            assert tensor.data_ptr() != state[name].data_ptr() or tensor.numel() == 0


# --- arrays that may not be written to


@pytest.mark.parametrize(("k", "name"), [(1, "l2"), (1, "l4"), (3, "l4"), (1, "logistic"), (3, "cross_entropy")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_arrays_that_may_not_be_written_to_are_taken_without_a_warning(k: int, name: str, dtype: torch.dtype) -> None:
    made = make_problem(k, classes=name in ("logistic", "cross_entropy"))
    for array in (made.X, made.Y):
        array.flags.writeable = False
    problem = Problem(made.X, made.Y)
    assert not problem.X.flags.writeable
    assert not problem.Y.flags.writeable
    torch.set_warn_always(True)  # torch says it once a process otherwise
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loss = sweep(problem, _tame(), objective=name, steps=5, record_every=1, dtype=dtype).loss
    finally:
        torch.set_warn_always(False)
    assert bool(np.isfinite(loss).all())


def _tame() -> Sequence[Run]:
    return grid(depth=[1, 2], width=[1, 3], method=["gd", "adam", "end_to_end"], lr=1e-3)


# --- where there is a GPU


@pytest.mark.skipif(not HAS_CUDA, reason="no CUDA device")
@pytest.mark.parametrize(("k", "name", "batch_size"), CASES)
def test_a_gpu_agrees_with_the_cpu(k: int, name: str, batch_size: int | None) -> None:
    problem = make_problem(k, classes=name in ("logistic", "cross_entropy"))
    losses = [
        sweep(
            problem, every_kind(k), objective=name, steps=20, record_every=5, dtype=torch.float64,
            batch_size=batch_size, device=device,
        ).loss
        for device in ("cpu", "cuda")
    ]  # fmt: skip
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-8)
