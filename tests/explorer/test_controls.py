"""Controls as data, and the address of a page that says what is set."""

from __future__ import annotations

import pytest

from overdepth.explorer.controls import Choice, Slider, Text, decades, evenly, read, write
from overdepth.explorer.views import VIEWS, View

CONTROLS = (
    Slider("depth", "depth", (1, 2, 3), 2),
    Slider("eps", "start", decades(-3, 0), 0.1),
    Choice("init", "start", {"a": "the a", "b": "the b"}, "a"),
    Text("sweep", "folder"),
)


def test_an_address_is_read_and_written_back() -> None:
    query = {"depth": "3", "eps": "0.02", "init": "b", "sweep": "a b/c"}
    values, wrong = read(CONTROLS, query)
    assert values == {"depth": 3, "eps": 0.02, "init": "b", "sweep": "a b/c"}
    assert not wrong
    assert write(CONTROLS, values) == query


def test_defaults_leave_the_address_alone() -> None:
    values, wrong = read(CONTROLS, {"utm": "x"})
    assert not wrong
    assert write(CONTROLS, values) == {}


def test_a_number_between_steps_goes_to_the_nearest_by_ratio_or_distance() -> None:
    assert read(CONTROLS, {"eps": "0.0234"})[0]["eps"] == 0.02
    assert read(CONTROLS, {"eps": "1e9"})[0]["eps"] == 1.0
    assert read(CONTROLS, {"eps": "-4"})[0]["eps"] == 0.001
    assert read(CONTROLS, {"depth": "2.4"})[0]["depth"] == 2


def test_the_last_of_a_repeated_parameter_counts() -> None:
    assert read(CONTROLS, {"depth": ["1", "3"]})[0]["depth"] == 3


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"depth": "deep"}, "depth is 'deep' in the address, expected a number from 1 to 3; its default, 2, is shown."),
        ({"depth": "nan"}, "depth is 'nan'"),
        ({"depth": "inf"}, "depth is 'inf'"),
        ({"init": "c"}, "init is 'c' in the address, expected one of a, b; 'a' is shown."),
    ],
)
def test_what_an_address_gets_wrong_is_said_and_the_default_shown(query: dict[str, str], said: str) -> None:
    values, (sentence,) = read(CONTROLS, query)
    assert said in sentence
    assert values["depth"] == 2
    assert values["init"] == "a"


@pytest.mark.parametrize("view", VIEWS.values(), ids=lambda view: str(view.key))
def test_every_default_is_among_the_steps_or_options(view: View) -> None:
    for control in view.controls:
        if isinstance(control, Slider):
            assert control.default in control.steps
            assert list(control.steps) == sorted(set(control.steps))
        elif isinstance(control, Choice):
            assert control.default in control.options
    keys = [control.key for control in view.controls]
    assert len(set(keys)) == len(keys)
    assert "view" not in keys


def test_steps_are_round() -> None:
    assert evenly(-0.2, 0.2, 0.1) == (-0.2, -0.1, 0.0, 0.1, 0.2)
    assert decades(0, 1)[-2:] == (7.0, 10.0)
