"""Puts the verdicts of a report into docs/reproduction.md, between its two markers.

    overdepth reproduce papers beyond map --data ethanol --out report
    python docs/verdicts.py report/claims.json [--part beyond]

One row a statement: how many of the comparisons hold, the range of their numbers, what is needed, our controls.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from overdepth.paper.claim import Claim, by_statement, number

PAGE = Path(__file__).parent / "reproduction.md"
PARTS = ("papers", "beyond", "map")
WORDS = {"holds": ("holds", "hold"), "fails": ("fails", "fail")}


def main() -> int:
    """Rewrites the table of one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claims", type=Path, help="claims.json of a report")
    parser.add_argument("--part", choices=PARTS, default="papers")
    options = parser.parse_args()
    content = json.loads(options.claims.read_text(encoding="utf-8"))
    claims = [to_claim(fields) for fields in content if part_of(fields["id"]) == options.part]
    text = PAGE.read_text(encoding="utf-8")
    begin, end = (f"<!-- {options.part} {word} -->\n" for word in ("begin", "end"))
    if begin not in text or end not in text or not claims:
        print(f"{PAGE} lacks {begin.strip()}, or the report has no claims of this part.", file=sys.stderr)
        return 2
    before, rest = text.split(begin)
    PAGE.write_text(before + begin + "\n".join(table(claims)) + "\n" + end + rest.split(end)[1], encoding="utf-8")
    return 0


def to_claim(fields: dict[str, Any]) -> Claim:
    """A claim from its JSON."""
    spread = fields["range"]
    return Claim(**{**fields, "seeds": tuple(fields["seeds"]), "range": None if spread is None else tuple(spread)})


def part_of(name: str) -> str:
    """The part of the report that a statement belongs to, by its id."""
    return {"beyond": "beyond", "robust": "map"}.get(name.split(".")[0], "papers")


def table(claims: Sequence[Claim]) -> list[str]:
    """The rows in Markdown."""
    lines = ["| statement | comparisons | number | needs | our controls |", "| --- | --- | --- | --- | --- |"]
    for group in by_statement(claims).values():
        said = [claim for claim in group if not claim.is_control]
        control = [claim for claim in group if claim.is_control]
        name = f"`{group[0].id}` {group[0].statement}"
        cells = [name, counts(said), numbers(said or control), group[0].threshold, counts(control)]
        lines.append(f"| {' | '.join(map(escaped, cells))} |")
    return lines


def escaped(cell: str) -> str:
    """The text of a cell: no end of it, and no tag as in <u, w>."""
    return re.sub(r"<(?=[A-Za-z/])", "&lt;", cell.replace("|", "\\|"))


def counts(claims: Sequence[Claim]) -> str:
    """How often each verdict occurs."""
    found = []
    for verdict in ("holds", "fails", "inconclusive", "not run"):
        if count := sum(claim.verdict == verdict for claim in claims):
            one, several = WORDS.get(verdict, (verdict, verdict))
            found.append(f"{count} {one if count == 1 else several}")
    return ", ".join(found)


def numbers(claims: Sequence[Claim]) -> str:
    """The range of the values."""
    values = [claim.value for claim in claims if claim.value is not None]
    if not values:
        return ""
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"


if __name__ == "__main__":
    sys.exit(main())
