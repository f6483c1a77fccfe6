"""Sweep files that ship with the library: the papers' figures, to be run as they are or edited."""

from __future__ import annotations

from importlib import resources

NAMES = ("fig2", "fig3", "fig4", "fig5", "quick")


def text_of(name: str) -> str:
    """The sweep file of a preset.

    Args:
        name: One of ``NAMES``.

    Example:
        >>> from overdepth.sweeps import presets
        >>> presets.text_of("quick").splitlines()[0]
        '# A first look, in seconds: depth against the learning rate on the set that ships with scikit-learn.'
    """
    return (resources.files(__package__) / f"{name}.toml").read_text(encoding="utf-8")
