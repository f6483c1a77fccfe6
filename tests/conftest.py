"""Settings that every test shares."""

from __future__ import annotations

import signal

import torch
from hypothesis import settings

settings.register_profile("overdepth", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("overdepth")

torch.set_num_threads(1)  # small matrices: threads that wait for each other only cost time on a busy machine

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell has it for what it starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # else whatever the tests start could not be interrupted
