"""Puts what a benchmark measured into docs/performance.md: a table, a picture, and the machine beside them.

    python benchmarks/layers.py | tee layers.txt
    python -m docs.performance layers.txt [...]

The last line of a benchmark's output is one line of JSON. It is kept in docs/measured, and its section, between two
markers, is written anew.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from docs.drawing import STYLE, panels, save, stack
from matplotlib.figure import Figure

DOCS = Path(__file__).parent
Figures = Mapping[str, Any]
MODELS = {
    "paper_cnn": "the paper's convolutional network, both dense layers, batch 64",
    "conv_64_64": "Conv2d 64 -> 64, 3 x 3, on 32 x 32, batch 64",
    "transformer_block": "Transformer block, width 512, 8 sequences of 512 tokens, all projections",
}
EXECUTIONS = ("auto", "chained", "folded")


def main(arguments: Sequence[str] | None = None, folder: Path = DOCS) -> int:
    """Stores measurements and rewrites their sections."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", nargs="+", type=Path, help="what benchmarks have printed")
    for path in parser.parse_args(arguments).outputs:
        figures = json.loads(path.read_text(encoding="utf-8").strip().splitlines()[-1])
        name = figures.get("benchmark")
        if name not in SECTIONS:
            print(f"{path} is of the benchmark {name!r}; expected one of {', '.join(SECTIONS)}.", file=sys.stderr)
            return 2
        try:
            SECTIONS[name](figures)
        except KeyError as missing:
            print(f"{path} lacks {missing}: run all parts of the benchmark (explore: with --page).", file=sys.stderr)
            return 2
        (folder / "measured" / "pictures" / "narrow").mkdir(parents=True, exist_ok=True)
        (folder / "measured" / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        rewrite(folder, name, figures)
    return 0


def rewrite(folder: Path, name: str, figures: Figures) -> None:
    """The section of one benchmark, and its picture."""
    page = folder / "performance.md"
    begin, end = (f"<!-- {name} {word} -->\n" for word in ("begin", "end"))
    before, rest = page.read_text(encoding="utf-8").split(begin)
    lines = [f"`python benchmarks/{name}.py`: {machine(figures)}.", "", *SECTIONS[name](figures)]
    if name in PICTURES:
        with mpl.rc_context(STYLE):
            figure = PICTURES[name](figures)
            save(figure, folder / "measured" / "pictures" / f"{name}.svg")
            save(stack(figure), folder / "measured" / "pictures" / "narrow" / f"{name}.svg")
        lines += ["", f"![The table's figures](measured/pictures/{name}.svg)"]
    page.write_text(before + begin + "\n".join(lines) + "\n" + end + rest.split(end)[1], encoding="utf-8")


def machine(figures: Figures) -> str:
    """Versions and processor, as the benchmark found them."""
    count = figures["threads"]
    return f"torch {figures['torch']}, {count} thread{'s' if count > 1 else ''} of {figures['machine']}"


def layers(figures: Figures) -> list[str]:
    """Training steps by execution, and conversions of a large model."""
    rows = [[text, *(_ratio(figures[model], way) for way in EXECUTIONS)] for model, text in MODELS.items()]
    lines = _table(["a training step over the plain model's, depth 2", *(f"`{way}`" for way in EXECUTIONS)], rows)
    for name, text in (
        ("gpt2_small_default", ""),
        ("gpt2_small_with_embeddings", ", with the embeddings factored too"),
    ):
        of = figures[name]
        lines += [
            "",
            f"GPT-2 small's shapes ({of['million_parameters']:g} million parameters{text}): over-parameterized in "
            f"{of['overparameterize_seconds']:g} s, folded in {of['collapse_seconds']:g} s; peak memory "
            f"{max(of['overparameterize_peak_over_model'], of['collapse_peak_over_model']):g} times the model's.",
        ]
    return lines


def optimizers(figures: Figures) -> list[str]:
    """Steps over Muon's, by shape of the weight."""
    shapes = [name for name, value in figures.items() if isinstance(value, dict) and "muon" in value]
    names = [name for name in figures[shapes[0]] if name not in ("gemm", "muon")]
    rows = [
        [f"`{name}`", *(f"{figures[shape].get(name, {}).get('over_muon', ''):.3g}" for shape in shapes)]
        for name in names
        if all(name in figures[shape] for shape in shapes)
    ]
    return _table(["a step over `torch.optim.Muon`'s", *shapes], rows)


def sweep(figures: Figures) -> list[str]:
    """The engine against the peak and a loop, and by the number of runs."""
    l4, l2 = figures["l4"], figures["l2"]
    rows = [
        ["microseconds a step of all runs", *(f"{of['microseconds_per_step']:.0f}" for of in (l4, l2))],
        ["fraction of the peak of a large square `torch.mm`", f"{l4['gemm_peak_fraction']:.2f}", ""],
        ["fraction of the peak of oneDNN's kernels", f"{l4['onednn_peak_fraction']:.2f}", ""],
        ["times as fast as a `torch.nn` loop over all runs", *(f"{of['loop_speedup']:.0f}" for of in (l4, l2))],
        [
            "the same, the loop excused from diverged runs",
            *(f"{of['loop_speedup_live']:.0f}" for of in (l4, l2)),
        ],
    ]
    said = f"{figures['data']}, {figures['m']} x {figures['d']}, {figures['runs']} runs, {figures['steps']} steps."
    by_runs = figures["microseconds_per_step_by_runs"]
    counts = list(by_runs["l4"])
    return [
        said,
        "",
        *_table(["", "l4", "l2"], rows),
        "",
        "Microseconds a step by the number of runs:",
        "",
        *_table(["runs", *counts], [[name, *(f"{by_runs[name][n]:.0f}" for n in counts)] for name in ("l4", "l2")]),
    ]


def theory(figures: Figures) -> list[str]:
    """Times of the theory's larger functions."""
    operators = figures["transfer_operator"]
    rows = [
        [name.replace("_", " "), f"{of['condition']:.0e}", f"{of['seconds']:g}", f"{of['relative_residual']:.0e}"]
        for name, of in operators.items()
    ]
    return [
        *_table(["smallest eigenvalue, depth 4, 256 x 256", "condition", "seconds", "relative residual"], rows),
        "",
        f"A two-layer certificate at 2048 x 2048 takes {figures['two_layer_certificate_2048_seconds']:g} s, 10,000 "
        f"scalar rates of depth 8 {figures['scalar_rates_10000_seconds']:g} s, the flow of three layers 20 x 20 "
        f"{figures['flow']['seconds']:g} s.",
    ]


def sweep_scale(figures: Figures) -> list[str]:
    """Sweeps in a folder."""
    peak, ethanol = figures["peak"], figures["ethanol"]
    fractions = "{gemm_peak_fraction:.2f} of the peak of `torch.mm`, {onednn_peak_fraction:.2f} of oneDNN's"
    size = f"{peak['runs']:,} l4 runs, "
    rows = [
        [
            f"{size}2000 steps, breast-cancer (569 x 30)",
            f"{peak['seconds']:.1f} s: {fractions.format(**peak)}; {peak['peak_memory_mb']:.0f} MB",
        ],
        [
            f"{size}200 steps, Ethanol (2565 x 128)",
            f"{ethanol['seconds']:.1f} s: {fractions.format(**ethanol)}; {ethanol['peak_memory_mb']:.0f} MB",
        ],
        [
            f"storing, against the engine in memory, {figures['storing']['runs']:,} runs",
            f"{100 * figures['storing']['overhead']:+.1f}% of its time",
        ],
        [
            "from opening a half-finished folder to its next step",
            f"{figures['resume']['seconds_to_next_step']:.2f} s",
        ],
        [
            "two Ray workers of a core each, against one process with two threads",
            f"{figures['ray']['throughput']:.2f} times its throughput",
        ],
    ]
    return _table(["", "measured"], rows)


def compare(figures: Figures) -> list[str]:
    """What the harness costs."""
    rows = [
        [name, f"{of['theirs_ms']:.0f} ms", f"{of['ratio']:.3f}", f"{of['of_sums']:.3f}"]
        for name, of in figures["overhead"].items()
    ]
    lines = _table(["a run of", "by hand", "the harness over it: median of neighbours", "of all rounds"], rows)
    if "calibration" not in figures:
        return lines
    counts = [
        [name, str(of.get("no difference", 0)), str(sum(of.values()))] for name, of in figures["calibration"].items()
    ]
    head = ["plain training against itself on other seeds", "no difference", "of"]
    return [*lines, "", "With `--calibration`, searches and all:", "", *_table(head, counts)]


def explore(figures: Figures) -> list[str]:
    """Moves of every control, and the page in a browser."""
    rows = [
        [name, *(f"{figures[name][key]:.0f}" for key in ("moves", "median_ms", "worst_ms"))]
        for name in ("points", "preconditioner", "modes", "rates", "sweep")
    ]
    page = figures["page"]
    return [
        *_table(["view", "moves tried", "median, ms", "worst, ms"], rows),
        "",
        f"That is from the controls' values to the figures as JSON. In a headless Chromium without a graphics card, "
        f"on the same machine: the server answers {page['server_answers_s']:.1f} s after the command's start, and the "
        f"first picture is drawn after {page['first_picture_s']:.1f} s; from a key to the changed page it takes "
        f"{page['key_to_text_median_ms']:.0f} ms (median; worst {page['key_to_text_worst_ms']:.0f}), drawing included.",
    ]


def draw_layers(figures: Figures) -> Figure:
    """Bars of the ratios."""
    figure, (ax,) = panels(1, 6.0, 2.6)
    for place, way in enumerate(EXECUTIONS):
        found = [
            (row + place / 4, figures[model][way]["ratio"]) for row, model in enumerate(MODELS) if way in figures[model]
        ]
        ax.barh([at for at, _ in found], [value for _, value in found], height=0.22, label=way)
    ax.axvline(1, color="black", linewidth=0.8)
    ax.set_yticks([row + 0.25 for row in range(len(MODELS))], ["CNN", "Conv2d", "Transformer"])
    ax.invert_yaxis()
    ax.set_xlim(right=1.35 * ax.get_xlim()[1])
    ax.legend(loc="center right")
    ax.set(xlabel="training step over the plain model's", title="depth 2")
    return figure


def draw_sweep(figures: Figures) -> Figure:
    """Time a step by the number of runs."""
    figure, (ax,) = panels(1, 6.0, 3.0)
    for name, by_runs in figures["microseconds_per_step_by_runs"].items():
        ax.loglog([int(n) for n in by_runs], list(by_runs.values()), marker="o", label=name)
    ax.legend()
    ax.set(xlabel="runs", ylabel="microseconds a step", title="one sweep")
    return figure


def _ratio(of: Figures, way: str) -> str:
    return f"{of[way]['ratio']:.2f}" if way in of else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


SECTIONS: dict[str, Callable[[Figures], list[str]]] = {
    "layers": layers,
    "optimizers": optimizers,
    "sweep": sweep,
    "theory": theory,
    "sweep_scale": sweep_scale,
    "compare": compare,
    "explore": explore,
}
PICTURES: dict[str, Callable[[Figures], Figure]] = {"layers": draw_layers, "sweep": draw_sweep}


if __name__ == "__main__":
    sys.exit(main())
