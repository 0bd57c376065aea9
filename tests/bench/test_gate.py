import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.cold
def test_the_gate_passes():
    done = subprocess.run(
        [sys.executable, "-m", "bench", "gate"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=1700,
        check=False,
    )
    assert done.returncode == 0 and done.stdout.endswith("gate: passed\n"), done.stdout + done.stderr
