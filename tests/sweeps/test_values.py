"""Values of a sweep file, one by one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overdepth.lab import Run
from overdepth.sweeps.values import FIELDS, checked, listed


@given(st.floats(1e-9, 1e9), st.floats(1e-9, 1e9), st.integers(1, 50))
def test_logspace_and_linspace_are_numpys_to_twelve_digits(first: float, last: float, count: int) -> None:
    for name, meant in (("logspace", np.geomspace(first, last, count)), ("linspace", np.linspace(first, last, count))):
        found = listed({name: [first, last, count]})
        assert all(type(value) is float for value in found)
        np.testing.assert_allclose(found, meant, rtol=1e-11, atol=1e-11 * max(first, last))


def test_powers_of_ten_are_met() -> None:
    assert listed({"logspace": [1e-5, 1e3, 9]}) == [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0]


@given(st.integers(-50, 50), st.integers(-50, 50), st.integers(-5, 5).filter(bool))
def test_range_is_pythons(first: int, beyond: int, step: int) -> None:
    if wanted := list(range(first, beyond, step)):
        assert listed({"range": [first, beyond, step]}) == wanted
    else:
        with pytest.raises(ValueError, match="is an empty list"):
            listed({"range": [first, beyond, step]})


anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers() | st.text())


@given(st.sampled_from(FIELDS), anything | st.sampled_from([10**400, -(10**400), 1e-320, math.inf, "depth 1"]))
def test_a_value_is_what_a_run_takes_or_refused(field: str, value: Any) -> None:
    try:
        found = checked(field, value)
    except ValueError as error:
        message = str(error)
    else:
        settings: dict[str, Any] = {"method": "end_to_end", "lr": 1e-300, field: found if found != "depth 1" else None}
        Run(**settings)
        return
    assert message.startswith("is ")


def test_a_whole_number_is_a_depth_however_it_is_written() -> None:
    assert type(checked("depth", 2.0)) is int
    assert checked("depth", 2.5) == 2.5
    assert checked("depth", math.inf) == math.inf


def test_anything_else_is_refused() -> None:
    refused: list[Any] = [{}, {"logspace": [1, 2, 3], "range": [1]}, {"space": []}]
    for value in refused:
        with pytest.raises(ValueError, match="is a table, expected one with a single key, one of logspace, linspace"):
            listed(value)
    with pytest.raises(ValueError, match="is an empty list, expected at least one value"):
        listed([])
