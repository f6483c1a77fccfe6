"""A program of its own: Lightning's DDP starts it once more for the second process. Writes what rank 0 ends with."""

from __future__ import annotations

import os
import sys
from typing import Any

import lightning.pytorch as pl
import torch
from tests.integrations.test_lightning import Net, batches
from torch.utils.data import DataLoader, DistributedSampler

from overdepth.integrations.lightning import OverparameterizeCallback


def main(path: str) -> None:
    module = Net()
    trainer: Any = pl.Trainer(
        max_epochs=3, callbacks=[OverparameterizeCallback()], logger=False, enable_checkpointing=False,
        accelerator="cpu", devices=2, strategy="ddp", enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False,
    )  # fmt: skip
    data = batches().dataset
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    own: Any = DistributedSampler(data, num_replicas=2, rank=rank, shuffle=False)  # Lightning's would shuffle
    trainer.fit(module, DataLoader(data, batch_size=8, sampler=own))
    if trainer.is_global_zero:
        torch.save(module.state_dict(), path)


if __name__ == "__main__":
    main(sys.argv[1])
