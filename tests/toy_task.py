"""A small task with everything the loop must be careful of: batch norm, dropout, counts, a head that is not always used."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import accelerate
import torch
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor, nn

from duotok.training import loop
from duotok.training.checkpoint import EMA, MODEL, OPTIMIZER, latest
from duotok.training.log import read_log
from duotok.training.loop import TrainConfig, train
from duotok.training.task import Batch, Task

CONFIG = TrainConfig(
    steps=24, micro_batches=4, lr=1e-2, warmup_steps=4, schedule="cosine", ema_decay=0.9, clip=1.0,
    log_every=2, evaluate_every=6, save_every=5, keep=2, prefetch=3,
)  # fmt: skip
Micro = tuple[int, int]


class ToyTask(Task):
    """Learns y = |x0| - x1.

    `poison` names a (step, micro) whose data is NaN, `stop_at` one in which the process gets SIGTERM; `uses_all` keeps all
    heads in use, as FSDP2 needs: every process must have the same gradients.
    """

    def __init__(
        self, width: int = 16, poison: Micro | None = None, stop_at: Micro | None = None, uses_all: bool = False
    ) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(
                nn.Linear(4, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3),
                nn.Linear(width, width), nn.ReLU(),
            )  # fmt: skip
            self.head, self.rare_head, self.frozen = nn.Linear(width, 1), nn.Linear(width, 1), nn.Linear(4, 4)
        self.frozen.requires_grad_(False)
        self.register_buffer("positive", torch.zeros((), dtype=torch.int64))
        self.width, self.poison, self.stop_at, self.uses_all = width, poison, stop_at, uses_all

    def settings(self) -> dict:
        return {"width": self.width}

    def batch(self, step: int, micro: int) -> Batch:
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(1000 * step + micro))
        if (step, micro) == self.poison:
            x[3] = torch.nan
        if self.uses_all:
            x[0, 0] = 2.0
        return Batch(tuple(f"item-{step}-{micro}-{i}" for i in range(8)), {"x": x})

    def forward(self, batch: Batch, seed: Tensor) -> dict[str, Tensor]:
        if batch.names[0] == "item-{}-{}-0".format(*self.stop_at or ("", "")):
            os.kill(os.getpid(), signal.SIGTERM)
        x = batch.tensors["x"]
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(int(seed[0]))) * 0.01
        hidden = self.body(self.frozen(x + noise))
        target = (x[:, :1].abs() - x[:, 1:2]).detach()
        main = (self.head(hidden) - target).square().mean()
        is_rare = bool(x[0, 0] > 1)  # some steps use this head in one process only, some not at all
        rare = (self.rare_head(hidden) - 1).square().mean() if is_rare else x.new_zeros(())
        self.positive += (x > 0).sum()
        return {"loss": main + 0.1 * rare, "main": main, "rare": rare}

    def parameter_groups(self) -> list[dict]:
        heads = [*self.head.parameters(), *self.rare_head.parameters()]
        return [{"params": list(self.body.parameters())}, {"params": heads, "lr_scale": 0.5, "weight_decay": 0.0}]

    def evaluate(self) -> dict[str, float]:
        x = torch.linspace(-2, 2, 64).view(16, 4)
        hidden = self.body(self.frozen(x))
        return {"error": float((self.head(hidden) - x[:, :1].abs() + x[:, 1:2]).square().mean())}

    def monitor(self) -> dict[str, float]:
        positive = float(self.positive)
        self.positive.zero_()
        return {"positive": positive}


def kill_later(seconds: float) -> None:
    """Kill this process with SIGKILL after some time."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()


def train_in_process(
    folder: Path,
    steps: int,
    rank: int = 0,
    num_processes: int = 1,
    port: int = 0,
    kill_after: float | None = None,
    kill_at_start: bool = False,
    task: Callable[[], Task] = ToyTask,
    **changes,
) -> None:
    """Train the toy as one of `num_processes` processes, `changes` being its configuration's.

    The process may kill itself `kill_after` so many seconds, counted from its first step, or from the very start.
    """
    os.environ |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    if num_processes > 1:
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_processes, "MASTER_PORT": port}
        os.environ.update({"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in places.items()}})
    rows = []

    def progress(row: dict) -> None:
        rows.append(row)
        if kill_after is not None and not kill_at_start and len(rows) == 1:
            kill_later(kill_after)

    if kill_after is not None and kill_at_start:
        kill_later(kill_after)
    try:
        train(task(), dataclasses.replace(CONFIG, steps=steps, **changes), folder, progress)
    except ValueError as error:
        folder.mkdir(exist_ok=True)
        (folder / f"error-{rank}.txt").write_text(str(error))
    if num_processes > 1:
        torch.distributed.destroy_process_group()


def train_sharded(folder: Path, **arguments) -> None:
    """Train with FSDP2 on CPUs; accelerate offers it for GPUs alone, so its state is told otherwise."""

    class Sharding(accelerate.Accelerator):
        def __init__(self, **options) -> None:
            super().__init__(**options)
            for state in (accelerate.PartialState, type(self.state)):
                state._shared_state["distributed_type"] = DistributedType.FSDP
            self.state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=False)

    loop.Accelerator = Sharding
    train_in_process(folder, **arguments)


def run_processes(folder: Path, num_processes: int = 1, target: Callable = train_in_process, **arguments) -> list[int]:
    """Train in new processes, joined by gloo if there are several; return their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["duotok.training.loop", "torch.utils.tensorboard"])
    if num_processes > 1:
        arguments |= {"num_processes": num_processes, "port": port}
    processes = [
        context.Process(target=target, args=(folder,), kwargs={"rank": rank, **arguments}) for rank in range(num_processes)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
        process.kill()
    return [process.exitcode for process in processes]


def timeless(folder: Path) -> list[dict]:
    """The rows of a run's log without what a clock measured."""
    return [{k: v for k, v in row.items() if k not in ("time", "seconds_per_step", "data_wait")} for row in read_log(folder)]


def tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a run's newest checkpoint."""
    found = latest(folder)
    return {f"{part}/{name}": value for part in (MODEL, EMA, OPTIMIZER) for name, value in found.read(part).items()}
