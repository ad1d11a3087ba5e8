"""Slurm without Ray: one array task does a fixed share of the units, with `duotok tokenize run` on its node."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

_SCRIPT = """#!/bin/bash
#SBATCH --job-name=duotok
#SBATCH --array=0-{last}
#SBATCH --cpus-per-task={cpus}{gpu}
#SBATCH --requeue
#SBATCH --signal=B:TERM@60
#SBATCH --output={logs}
# The run's folder has to be on a disk that all nodes share. A task that is stopped or requeued goes on where it was.
exec {duotok} tokenize run {run} --units "$SLURM_ARRAY_TASK_ID/{tasks}" --workers {workers} --device {device}{more}
"""


def make_script(run: Path, num_tasks: int, num_workers: int, num_cpus: int, device: str, more: list[str]) -> str:
    """Write a batch script, to be piped into `sbatch`.

    Args:
        run: the run's folder, on a disk that all nodes share.
        num_tasks: of the array; task i does units i, i + num_tasks, ...
        num_workers: processes of a task.
        num_cpus: of a task.
        device: of the workers.
        more: further arguments of `duotok tokenize run`.
    """
    return _SCRIPT.format(
        last=num_tasks - 1,
        tasks=num_tasks,
        cpus=num_cpus,
        gpu=f"\n#SBATCH --gpus-per-task={num_workers}" if device.startswith("cuda") else "",
        logs=shlex.quote(str(run.absolute() / "slurm-%A_%a.log")),
        duotok=_command(),
        run=shlex.quote(str(run.absolute())),
        workers=num_workers,
        device=shlex.quote(device),
        more="".join(f" {shlex.quote(part)}" for part in more),
    )


def _command() -> str:
    """Name this installation's command line: its script, which does not look for packages in the folder it is started in."""
    script = Path(sys.executable).with_name("duotok")
    return shlex.quote(str(script)) if script.is_file() else f"{shlex.quote(sys.executable)} -m duotok"
