"""Verdicts: the median decides, a short run or an undefined number gives none."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from overdepth.paper.claim import HORIZON, Setting, Statement, by_statement, number

STATEMENT = Statement("id", "paper", "text", "ratio", "in [0.8, 1.25]", lambda ratio: 0.8 <= ratio <= 1.25)


def setting(steps: int = HORIZON) -> Setting:
    return Setting("data", "standard", (0, 1, 2), steps)


def test_the_median_over_seeds_decides() -> None:
    claim = STATEMENT.judge("a against b", [1.0, 1.1, 9.0], setting())
    assert (claim.verdict, claim.value, claim.range) == ("holds", 1.1, (1.0, 9.0))
    assert STATEMENT.judge("a against b", [1.0, 2.0, 9.0], setting()).verdict == "fails"


def test_every_one_of_several_numbers_must_hold_and_the_farthest_is_shown() -> None:
    claim = STATEMENT.judge("a against b", [[1.0, 0.5], [1.1, 0.4], [1.2, 0.6]], setting())
    assert (claim.verdict, claim.value) == ("fails", 0.5)


def test_a_short_run_gives_no_verdict_but_its_number() -> None:
    claim = STATEMENT.judge("a against b", [1.0, 1.0, 1.0], setting(HORIZON - 1))
    assert (claim.verdict, claim.value) == ("inconclusive", 1.0)
    assert "99,999" in claim.note


def test_an_undefined_number_gives_no_verdict() -> None:
    claim = STATEMENT.judge("a against b", [1.0, math.nan, 1.0], setting())
    assert (claim.verdict, claim.value, claim.range) == ("inconclusive", None, None)


def test_a_number_that_fails_decides_whatever_the_others_are() -> None:
    claim = STATEMENT.judge("a against b", [[3.0, 1.0, math.nan]], setting())
    assert (claim.verdict, claim.value) == ("fails", 3.0)
    assert STATEMENT.judge("a against b", [[1.0, 1.0, math.nan]], setting()).verdict == "inconclusive"


def test_controls_are_told_apart() -> None:
    assert STATEMENT.judge("a against b", [1.0], setting(), control=True).is_control
    assert not STATEMENT.judge("a against b", [1.0], setting()).is_control


def test_zero_is_a_number() -> None:
    assert STATEMENT.judge("a against b", [0.0], setting()).verdict == "fails"


def test_claims_are_valid_json_with_the_fields_of_the_contract() -> None:
    claim = STATEMENT.judge("a against b", [math.nan], setting(), note="a note")
    fields = json.loads(json.dumps(claim.to_json(), allow_nan=False))
    assert list(fields) == [
        "id",
        "source",
        "statement",
        "comparison",
        "data",
        "scaling",
        "seeds",
        "statistic",
        "value",
        "range",
        "threshold",
        "verdict",
        "note",
    ]


@pytest.mark.parametrize(("value", "shown"), [(None, "–"), (math.nan, "–"), (1.23456, "1.23"), (0.0, "0")])
def test_numbers_for_people(value: float | None, shown: str) -> None:
    assert number(value) == shown


def test_two_statements_of_one_id_are_told_apart() -> None:
    other = Statement("id", "paper", "another text", "steps", "< 10", lambda steps: steps < 10)
    third = Statement("last", "paper", "a third", "steps", "< 10", lambda steps: steps < 10)
    claims = [
        STATEMENT.judge("a", [1.0], setting()),
        other.judge("a", [2.0], setting()),
        third.judge("a", [2.0], setting()),
        STATEMENT.judge("b", [1.0], setting()),
    ]
    found = by_statement(claims)
    assert {name: [claim.comparison for claim in group] for name, group in found.items()} == {
        "id": ["a", "b"], "id-2": ["a"], "last": ["a"]
    }  # fmt: skip
    assert found["id-2"][0].statement == "another text"


def test_what_cannot_decide_says_why() -> None:
    claim = STATEMENT.judge("a", [1.0], setting(), too_few="Only 3 of 100 starts.")
    assert claim.verdict == "inconclusive"
    assert "Only 3 of 100 starts." in claim.note
    assert STATEMENT.judge("a", [1.0], replace(setting(10), horizon=0)).verdict == "holds"
    assert STATEMENT.judge("a", [1.0], replace(setting(10), horizon=10)).note == ""


def test_a_number_beyond_all_bounds_fails_and_stays_valid_json() -> None:
    statement = Statement("id", "paper", "text", "ratio", "<= 1", lambda ratio: ratio <= 1)
    claim = statement.judge("a", [math.inf], replace(setting(), horizon=0))
    assert (claim.verdict, claim.value, claim.range) == ("fails", None, None)
    assert "beyond all bounds" in claim.note
    json.dumps(claim.to_json(), allow_nan=False)
