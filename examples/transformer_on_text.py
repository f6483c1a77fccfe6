"""A small decoder-only transformer on the characters of a text that ships with Python: its own help topics.

    overdepth compare examples/transformer_on_text.py:task --out transformer-on-text

How it came out (150 steps, five seeds, torch 2.13.0, two cores of an AMD EPYC; 75 s): no difference that five seeds
can show, 0.610 to 1.26 x as fast in steps, 0.500 to 1.09 x in time.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pydoc_data.topics import topics

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

CONTEXT, WIDTH, HEADS, LAYERS, BATCH = 32, 48, 4, 2, 16
TEXT = "".join(topics[name] for name in sorted(topics))
CHARACTERS = sorted(set(TEXT))


class Decoder(nn.Module):
    """Characters to the next characters, each seeing those before it."""

    def __init__(self) -> None:
        super().__init__()
        self.characters = nn.Embedding(len(CHARACTERS), WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, LAYERS, norm=nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, len(CHARACTERS))
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(CONTEXT), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits, shape (batch, context, characters)."""
        hidden = self.characters(ids) + self.positions.weight
        logits: Tensor = self.head(self.blocks(hidden, mask=self.mask, is_causal=True))
        return logits


def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Passages from anywhere in the text, without an end."""
    numbers = {character: i for i, character in enumerate(CHARACTERS)}
    ids = torch.tensor([numbers[character] for character in TEXT])
    generator = torch.Generator().manual_seed(seed)
    while True:
        begins = torch.randint(len(ids) - CONTEXT - 1, (BATCH, 1), generator=generator)
        chosen = ids[begins + torch.arange(CONTEXT + 1)]
        yield chosen[:, :-1], chosen[:, 1:]


def loss_step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy of the next character, in nats."""
    return F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


def task() -> dict[str, object]:
    """Adam; every projection and both layers of each feed-forward block, and the head, are products."""
    return {
        "build": Decoder,
        "loss_step": loss_step,
        "data": batches,
        "base": partial(torch.optim.Adam, lr=1e-3),
        "arms": ["plain", "form1:2"],
        "lrs": [0.0025, 0.005, 0.01, 0.02],
        "steps": 150,
        "seeds": 5,
    }


if __name__ == "__main__":
    from overdepth.cli import main

    raise SystemExit(main(["compare", f"{__file__}:task", "--out", "transformer-on-text"]))
