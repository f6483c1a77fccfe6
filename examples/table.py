"""Puts the outcomes of the examples into docs/does-it-help.md, between its two markers.

    overdepth compare examples/l4_regression.py:task --out OUT/l4_regression       # and so on for the other four
python examples/table.py OUT
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "does-it-help.md"
BEGIN, END = "<!-- examples begin -->\n", "<!-- examples end -->\n"
EXAMPLES = (
    "l4_regression",
    "tabular_heavy_tails",
    "convolutional_network",
    "transformer_on_text",
    "fine_tuning",
)


def main() -> int:
    """Rewrites the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds a folder with comparison.json for each example")
    options = parser.parse_args()
    lines = [
        "| example | arm | verdict | not tuned | against steps as long | time of a step |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in EXAMPLES:
        path = options.folder / name / "comparison.json"
        if not path.is_file():
            print(f"{path} does not exist; run the example first.", file=sys.stderr)
            return 2
        lines += rows(name, json.loads(path.read_text(encoding="utf-8")))
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    PAGE.write_text(before + BEGIN + "\n".join(lines) + "\n" + END + rest.split(END)[1], encoding="utf-8")
    return 0


def rows(name: str, found: dict[str, Any]) -> list[str]:
    """A row an arm."""
    lines: list[str] = []
    for arm in found["arms"][1:]:
        shown = f"`{name}`" if not lines else ""
        said = [arm[key]["words"] if arm[key] else "" for key in ("verdict", "untuned", "matched")]
        lines.append(f"| {shown} | {arm['name']} | {' | '.join(said)} | {arm['step_time_ratio']:.2f} x plain's |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
