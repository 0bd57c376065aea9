"""hydra/launcher=facenet, here because Hydra takes launchers from this package only. The work is in `facenet.sweeps`."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class FacenetLauncher(Launcher):
    """Runs each job as a command of its own. The table of jobs comes first."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from facenet.commands import torchrun
        from facenet.errors import USER, fail

        if torchrun.active():
            fail(torchrun.NO_SWEEP, USER)
        self.context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from facenet.sweeps.batch import run_batch

        return run_batch(self.config, self.context.config_loader, job_overrides, initial_job_idx)
