"""What a process does not import that it does not need."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import sys, torch
from facenet.engine.muon import Muon
from facenet.devices.updates import leave_compiler_out
leave_compiler_out()
weight = torch.nn.Parameter(torch.ones(4, 4))
for optimizer in (Muon([weight]), torch.optim.SGD([weight], lr=0.1), torch.optim.Adam([weight])):
    optimizer.zero_grad()
weight.grad = torch.ones(4, 4)
Muon([weight], bf16=False).step()
sys.exit("torch._dynamo" in sys.modules)
"""


@pytest.mark.slow
@pytest.mark.cold
def test_optimizers_and_updates_of_muon_do_without_the_compiler():
    assert subprocess.run([sys.executable, "-c", CODE], timeout=300).returncode == 0
