"""What to cite: the software, the paper whose results it implements, and the sources of what was used."""

from __future__ import annotations

import contextlib
import difflib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass

from overdepth._version import __version__


@dataclass(frozen=True)
class Entry:
    """A BibTeX entry: its kind, its key, and its fields in order."""

    kind: str
    key: str
    fields: dict[str, str]

    def __str__(self) -> str:
        """As BibTeX reads it."""
        lines = ",\n".join(f"  {name:<13} = {{{value}}}" for name, value in self.fields.items())
        return f"@{self.kind}{{{self.key},\n{lines}\n}}"


class Citation(str):
    """BibTeX entries as one text, which is also how it shows itself.

    Attributes:
        keys: The entries' keys, in order.
    """

    keys: tuple[str, ...]

    def __new__(cls, entries: tuple[Entry, ...]) -> Citation:
        """Joins entries."""
        found = super().__new__(cls, "\n\n".join(map(str, entries)))
        found.keys = tuple(entry.key for entry in entries)
        return found

    def __repr__(self) -> str:
        return str(self)


ENTRIES: dict[str, Entry] = {
    entry.key: entry
    for entry in (
        Entry(
            "software",
            "overdepth",
            {
                "title": "{overdepth: linear over-parameterization for PyTorch}",
                "author": "{The overdepth developers}",
                "version": __version__,
                "license": "MIT",
            },
        ),
        Entry(
            "inproceedings",
            "arora2018optimization",
            {
                "title": "{On the Optimization of Deep Networks: Implicit Acceleration by Overparameterization}",
                "author": "Arora, Sanjeev and Cohen, Nadav and Hazan, Elad",
                "booktitle": "Proceedings of the 35th International Conference on Machine Learning",
                "pages": "244--253",
                "year": "2018",
                "eprint": "1802.06509",
                "archiveprefix": "arXiv",
            },
        ),
        Entry(
            "inproceedings",
            "min2023convergence",
            {
                "title": "{On the Convergence of Gradient Flow on Multi-layer Linear Models}",
                "author": "Min, Hancheng and Vidal, Ren{\\'e} and Mallada, Enrique",
                "booktitle": "Proceedings of the 40th International Conference on Machine Learning",
                "series": "Proceedings of Machine Learning Research",
                "volume": "202",
                "pages": "24850--24887",
                "year": "2023",
            },
        ),
        Entry(
            "inproceedings",
            "saxe2014exact",
            {
                "title": "{Exact solutions to the nonlinear dynamics of learning in deep linear neural networks}",
                "author": "Saxe, Andrew M. and McClelland, James L. and Ganguli, Surya",
                "booktitle": "International Conference on Learning Representations",
                "year": "2014",
                "eprint": "1312.6120",
                "archiveprefix": "arXiv",
            },
        ),
        Entry(
            "inproceedings",
            "tarmoun2021understanding",
            {
                "title": "{Understanding the Dynamics of Gradient Flow in Overparameterized Linear Models}",
                "author": "Tarmoun, Salma and Fran{\\c{c}}a, Guilherme and Haeffele, Benjamin D. and Vidal, Ren{\\'e}",
                "booktitle": "Proceedings of the 38th International Conference on Machine Learning",
                "year": "2021",
            },
        ),
        Entry(
            "inproceedings",
            "fukumizu1998effect",
            {
                "title": "{Effect of Batch Learning in Multilayer Neural Networks}",
                "author": "Fukumizu, Kenji",
                "booktitle": "Proceedings of the 5th International Conference on Neural Information Processing",
                "year": "1998",
            },
        ),
        Entry(
            "inproceedings",
            "jacot2018neural",
            {
                "title": "{Neural Tangent Kernel: Convergence and Generalization in Neural Networks}",
                "author": "Jacot, Arthur and Gabriel, Franck and Hongler, Cl{\\'e}ment",
                "booktitle": "Advances in Neural Information Processing Systems",
                "year": "2018",
                "eprint": "1806.07572",
                "archiveprefix": "arXiv",
            },
        ),
        Entry(
            "misc",
            "yang2023spectral",
            {
                "title": "{A Spectral Condition for Feature Learning}",
                "author": "Yang, Greg and Simon, James B. and Bernstein, Jeremy",
                "year": "2023",
                "eprint": "2310.17813",
                "archiveprefix": "arXiv",
            },
        ),
        Entry(
            "article",
            "vergara2012chemical",
            {
                "title": "{Chemical gas sensor drift compensation using classifier ensembles}",
                "author": "Vergara, Alexander and Vembu, Shankar and Ayhan, Tuba and Ryan, Margaret A. and Homer, "
                "Margie L. and Huerta, Ram{\\'o}n",
                "journal": "Sensors and Actuators B: Chemical",
                "volume": "166--167",
                "pages": "320--329",
                "year": "2012",
            },
        ),
        Entry(
            "article",
            "rodriguezlujan2014calibration",
            {
                "title": "{On the calibration of sensor arrays for pattern recognition using the minimal number of "
                "experiments}",
                "author": "Rodriguez-Lujan, Irene and Fonollosa, Jordi and Vergara, Alexander and Homer, Margie and "
                "Huerta, Ramon",
                "journal": "Chemometrics and Intelligent Laboratory Systems",
                "volume": "130",
                "pages": "123--134",
                "year": "2014",
            },
        ),
        Entry(
            "article",
            "lecun1998gradient",
            {
                "title": "{Gradient-based learning applied to document recognition}",
                "author": "LeCun, Yann and Bottou, L{\\'e}on and Bengio, Yoshua and Haffner, Patrick",
                "journal": "Proceedings of the IEEE",
                "volume": "86",
                "number": "11",
                "pages": "2278--2324",
                "year": "1998",
            },
        ),
        Entry(
            "inproceedings",
            "street1993nuclear",
            {
                "title": "{Nuclear feature extraction for breast tumor diagnosis}",
                "author": "Street, W. Nick and Wolberg, William H. and Mangasarian, Olvi L.",
                "booktitle": "Biomedical Image Processing and Biomedical Visualization",
                "year": "1993",
            },
        ),
    )
}
"""Every source, by key, in the order in which they are given."""

ALWAYS = ("overdepth", "arora2018optimization")
"""What CITATION.cff asks for: the software and the paper whose results it implements."""

_RATES = (
    "rates", "explore", "theory", "certify", "Certificate", "chain_rate", "single_io_rate", "supported_single_io_rate",
    "three_layer_rate", "two_layer_rate", "two_layer_rates", "homogeneous_rate", "scalar_rate", "scalar_rate_bound",
    "margin", "margin_from_distance", "deep_mode", "two_layer_mode", "riccati", "spectral_factors",
    "factors_with_imbalance", "flow", "transfer_operator", "TransferOperator", "reproduce", "inspect",
)  # fmt: skip
_MODES = (
    "explore", "theory", "logistic_mode", "two_layer_mode", "spectral_factors", "balanced_hitting_time", "escape_time",
    "EscapeTime",
)  # fmt: skip

USED_BY: dict[str, tuple[str, ...]] = {
    "min2023convergence": _RATES,
    "saxe2014exact": _MODES,
    "tarmoun2021understanding": ("theory", "two_layer_mode"),
    "fukumizu1998effect": ("theory", "riccati"),
    "jacot2018neural": ("theory", "rates", "frozen_rate", "lazy_rate", "LazyRate", "certify", "Certificate"),
    "yang2023spectral": ("EndToEndSGD",),
    "vergara2012chemical": ("ethanol",),
    "rodriguezlujan2014calibration": ("ethanol",),
    "lecun1998gradient": ("mnist", "network"),
    "street1993nuclear": ("breast-cancer",),
}
"""Names that use a source besides those that are cited always: public names, commands, parts and data sets."""

_TOPICS = ("nn", "optim", "optax", "lab", "sweep", "show", "compare", "doctor")
_PUBLIC = ("overdepth", "overdepth.nn", "overdepth.optim", "overdepth.theory", "overdepth.lab", "overdepth.optax")


def cite(*names: str) -> Citation:
    """BibTeX for what was used: the software, Arora, Cohen & Hazan (2018), and the sources of everything named.

    Args:
        names: Public names such as ``"Factored"`` or ``"theory.certify"``, commands such as ``"rates"``, data sets such
            as ``"ethanol"``; none for all sources there are.

    Returns:
        The entries, a string that a console shows as it is; ``keys`` has their keys.

    Raises:
        ValueError: If a name is not known.

    Example:
        >>> import overdepth as od
        >>> od.cite("rates").keys
        ('overdepth', 'arora2018optimization', 'min2023convergence', 'jacot2018neural')
        >>> print(od.cite("Factored"))
        @software{overdepth,
          title         = {{overdepth: linear over-parameterization for PyTorch}},
        ...
    """
    if not names:
        return Citation(tuple(ENTRIES.values()))
    wanted = set(ALWAYS)
    for given in names:
        name = str(given).rpartition(".")[2]
        sources = [key for key, users in USED_BY.items() if name in users]
        if not sources and name not in _TOPICS and name not in set(_public_names()):
            known = {*_TOPICS, *_public_names(), *(user for users in USED_BY.values() for user in users)}
            close = difflib.get_close_matches(name, known, n=3) or ["Factored", "rates", "ethanol"]
            raise ValueError(
                f"{given!r} is no public name, command or data set of overdepth; expected one such as "
                f"{', '.join(close)}, or none for all sources."
            )
        wanted.update(sources)
    return Citation(tuple(entry for entry in ENTRIES.values() if entry.key in wanted))


def _public_names() -> Iterator[str]:
    for module in _PUBLIC:
        with contextlib.suppress(ModuleNotFoundError):  # of an extra that is not installed
            yield from importlib.import_module(module).__all__
