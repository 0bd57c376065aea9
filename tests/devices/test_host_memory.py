import os
import subprocess
import sys

import pytest

from facenet.devices.host_memory import tuner

FAULTS = """
import resource, torch
from facenet.devices.accelerator import Accelerator
from facenet.devices.table import DeviceChoice, Precision

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(25_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(min(faults() for _ in range(3)))
with Accelerator.start(DeviceChoice(name="cpu"), Precision()):
    print(min(faults() for _ in range(40)))  # not from the second on: aligned blocks of one size leave gaps that are too small for the next
"""


@pytest.mark.skipif(tuner() is None, reason="another C library than glibc")
@pytest.mark.parametrize("tuned", [False, True])
def test_a_process_that_computes_on_the_host_uses_its_memory_again(tuned):
    environment = {**os.environ, **({"MALLOC_TRIM_THRESHOLD_": "131072"} if tuned else {})}
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, env=environment)
    before, after = (int(line) for line in done.stdout.split())
    assert before > 20_000  # 24,415 pages of 4 KiB
    assert after > 20_000 if tuned else after < 100
