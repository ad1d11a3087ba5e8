"""The loop that trains any `Task`: one process or many, stopped and resumed at will, with the same result.

Every step: for each of this process's micro-batches seed, forward and backward; then clip, AdamW, averages; now and then
log, evaluate, save. Devices and processes are accelerate's: start with `accelerate launch` or `torchrun`. DDP allows for
parameters that a process did not use; FSDP2 (`accelerate launch --use_fsdp --fsdp_version 2`) does not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from . import checkpoint
from .log import Log, read_log
from .losses import Mean, as_mean
from .micro_batches import Prefetcher, RunningBuffers, seeds, share
from .optim import ExponentialMovingAverage, Schedule, lr_factor, make_optimizer, set_lr
from .stop_signal import StopSignal
from .task import Batch, Task

# What a resumed run may change; steps may only grow.
MAY_CHANGE = {f"train.{name}" for name in ("steps", "log_every", "evaluate_every", "save_every", "keep", "prefetch")}


class DivergedError(ValueError):
    """A loss or gradient that is NaN or infinite; the message says where, and the last checkpoint is untouched."""


@dataclass(frozen=True)
class TrainConfig:
    """How a task is trained. Defaults "precedent" are stage 1's, not from the paper: MusicFM as MuQ and LeVo train it.

    Attributes:
        steps: 400,000, precedent.
        micro_batches: forward and backward passes in a step, shared equally among the processes; 64, precedent (64 GPUs).
        seed: of everything random in the forward passes; own choice.
        lr: peak learning rate; 5e-4, precedent.
        warmup_steps: 32,000, precedent.
        schedule: of the fall after the warm-up, see `optim.lr_factor`; polynomial, precedent.
        power: of the polynomial; 1, precedent (fairseq's default).
        final_lr_ratio: last learning rate over the peak; 0, precedent.
        betas, eps, weight_decay: of AdamW; (0.9, 0.98), 1e-6 and 0.01, precedent.
        clip: largest norm of the gradient, 0 for none; 10, precedent.
        ema_decay: of averaged weights, 0 for none; own choice.
        precision: "bf16" runs the forward pass under autocast; fp32, precedent.
        log_every, evaluate_every, save_every: in steps; own choice.
        keep: newest checkpoints kept; own choice.
        prefetch: micro-batches made ahead; own choice.
    """

    steps: int = 400_000
    micro_batches: int = 64
    seed: int = 0
    lr: float = 5e-4
    warmup_steps: int = 32_000
    schedule: Schedule = "polynomial"
    power: float = 1.0
    final_lr_ratio: float = 0.0
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 0.01
    clip: float = 10.0
    ema_decay: float = 0.0
    precision: Literal["fp32", "bf16"] = "fp32"
    log_every: int = 50
    evaluate_every: int = 2_000
    save_every: int = 1_000
    keep: int = 3
    prefetch: int = 4

    def __post_init__(self) -> None:
        for name in ("steps", "micro_batches", "log_every", "evaluate_every", "save_every", "keep", "prefetch"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1; got {getattr(self, name)}; raise it")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"expected ema_decay in [0, 1); got {self.ema_decay}; change it")
        for name in ("lr", "eps", "warmup_steps", "final_lr_ratio", "weight_decay", "clip"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"expected {name} of at least 0; got {getattr(self, name)}; correct it")


@dataclass(frozen=True)
class Result:
    """How a run ended: its last step, whether it was stopped before the end, its last checkpoint, losses and scores."""

    step: int
    stopped: bool
    checkpoint: Path
    losses: dict[str, float]
    scores: dict[str, float]


def train(task: Task, config: TrainConfig, folder: Path, progress: Callable[[dict], None] | None = None) -> Result:
    """Train a task, going on from the folder's newest checkpoint if there is one.

    SIGTERM and Ctrl-C finish the step, save and stop; a second one stops at once.

    Args:
        task: built alike by every process.
        folder: gets log.jsonl, tensorboard/ and checkpoints step-000123/; shared by all processes.
        progress: called in the main process with the row (see `log`) of every step and evaluation.

    Raises:
        CheckpointError: if the folder's run has other settings, or only broken checkpoints, or another process trains there.
        DivergedError: if a loss or gradient is not finite.
        ValueError: if the processes cannot share the micro-batches equally.
    """
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # without this, processes without a GPU would not find one another
        mixed_precision="no",  # the precision is the configuration's, not the launcher's
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=True)],
    )
    with checkpoint.alone_in(folder) if accelerator.is_main_process else nullcontext():
        return _train(task, config, folder, accelerator, progress)


def _train(
    task: Task, config: TrainConfig, folder: Path, accelerator: Accelerator, progress: Callable[[dict], None] | None
) -> Result:
    run = _Run(task, config, folder, accelerator, progress)
    order = ((step, micro) for step in range(run.step + 1, config.steps + 1) for micro in run.micros)
    data = Prefetcher(task.batch, order, config.prefetch, pin=accelerator.device.type == "cuda")
    saved, stopped = run.resumed, False
    with run.log or nullcontext(), data, StopSignal() as stop:
        while run.step < config.steps and not stopped:
            stopped = run.update(data, stop)
            last = run.step == config.steps
            run.report(every=config.log_every, last=last)
            if last or run.step % config.evaluate_every == 0:
                run.evaluate()
            if last or stopped or run.step % config.save_every == 0:
                saved = run.save()
    accelerator.wait_for_everyone()
    rows = {row["kind"]: row for row in read_log(folder)}
    scores = rows.get("evaluation", {}).get("scores", {})
    return Result(run.step, run.step < config.steps, saved, rows.get("train", {}).get("losses", {}), scores)


class _Run:
    """The state of a run between two steps."""

    def __init__(
        self, task: Task, config: TrainConfig, folder: Path, accelerator: Accelerator, progress: Callable[[dict], None] | None
    ) -> None:
        self.task, self.config, self.folder, self.accelerator, self.progress = task, config, folder, accelerator, progress
        self.micros = share(config.micro_batches, accelerator.num_processes, accelerator.process_index)
        self.settings = {"train": asdict(config), "task": task.settings()}
        found = self._find()
        self.step, self.resumed = (found.step, found.folder) if found else (0, None)
        if found:
            task.load_state_dict(found.read(checkpoint.MODEL))
        optimizer = make_optimizer(task.parameter_groups(), config.lr, config.betas, config.eps, config.weight_decay)
        self.model, self.optimizer = accelerator.prepare(task.train(), optimizer)
        self.parameters = dict(task.named_parameters())
        self.trained = {name: value for name, value in self.parameters.items() if value.requires_grad}
        self.ema = ExponentialMovingAverage(self.trained, config.ema_decay) if config.ema_decay else None
        if found:
            checkpoint.load_optimizer_state(self.optimizer, self.parameters, found.read(checkpoint.OPTIMIZER))
        if found and self.ema:
            for name, value in found.read(checkpoint.EMA).items():
                self.ema.averages[name] = checkpoint.placed(value, self.parameters[name])
        self.buffers = RunningBuffers(task)
        self.log = Log(folder, self.step) if accelerator.is_main_process else None
        self.seconds, self.waited, self.num_steps = 0.0, 0.0, 0  # since the last logged row

    def _find(self) -> checkpoint.Checkpoint | None:
        """Find the checkpoint to go on from: the main process looks, and tells the others."""
        answer = [checkpoint.latest(self.folder) if self.accelerator.is_main_process else None]
        found = broadcast_object_list(answer)[0]
        if found:
            checkpoint.check_settings(found, self.settings, MAY_CHANGE)
            if found.step > self.config.steps:
                raise checkpoint.CheckpointError(
                    f"train.steps: expected at least the {found.step} of {found.folder}; got {self.config.steps}; raise it"
                )
        return found

    def update(self, data: Prefetcher, stop: StopSignal) -> bool:
        """Do one step; return whether any process was asked to stop."""
        start, waited, config = time.perf_counter(), data.waited, self.config
        step = self.step + 1
        factor = lr_factor(step, config.steps, config.warmup_steps, config.schedule, config.final_lr_ratio, config.power)
        set_lr(self.optimizer, config.lr * factor)
        self.buffers.begin()
        parts, names = [], []  # losses of each micro-batch, and what was in it
        for micro in self.micros:
            batch = data.next()
            is_last = micro == self.micros[-1]
            with nullcontext() if is_last else self.accelerator.no_sync(self.model):
                losses = self._forward(batch, step, micro)
                (losses["loss"] / len(self.micros)).backward()
            self.buffers.collect()
            parts.append({name: as_mean(value) for name, value in losses.items()})
            names.append(batch.names)
        norm = checkpoint.whole(self.accelerator.clip_grad_norm_(self.trained.values(), config.clip or math.inf))
        means, gradient_norm, stopped = self._agree(parts, norm, stop)
        if not all(map(math.isfinite, (*means.values(), gradient_norm))):
            raise self._diverged(step, gradient_norm, parts, names)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.buffers.end(config.micro_batches, lambda change: self.accelerator.reduce(change, "sum"))
        if self.ema:
            self.ema.update()
        self.step = step
        self.seconds += time.perf_counter() - start
        self.waited += data.waited - waited
        self.num_steps += 1
        self.row = {"lr": config.lr * factor, "losses": means, "gradient_norm": gradient_norm}
        return stopped

    def _forward(self, batch: Batch, step: int, micro: int) -> dict[str, Tensor | Mean]:
        device = self.accelerator.device
        seed, generators = seeds(self.config.seed, step, micro)
        torch.manual_seed(generators)
        with self._autocast():
            return self.model(batch.to(device), seed.to(device))

    def _autocast(self) -> AbstractContextManager:
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    def _agree(self, parts: list[dict[str, Mean]], norm: Tensor, stop: StopSignal) -> tuple[dict[str, float], float, bool]:
        """Average over all micro-batches; the step's one wait for the device."""
        sums = [sum(part[name].total for part in parts) for name in parts[0]]
        counts = [sum(part[name].count for part in parts) for name in parts[0]]
        asked = norm.new_tensor(float(stop.requested))
        found = self.accelerator.reduce(torch.stack([*sums, *counts, norm, asked]), "sum").tolist()
        rows = zip(parts[0], found, found[len(sums) :], strict=False)
        means = {name: total / count for name, total, count in rows if count}
        return means, found[-2] / self.accelerator.num_processes, found[-1] > 0

    def _diverged(self, step: int, norm: float, parts: list[dict[str, Mean]], names: list[tuple[str, ...]]) -> DivergedError:
        """Name the micro-batches whose losses are not finite; all of them if it is the gradient alone."""
        lines: list[tuple[bool, str]] = []
        for losses, inside in zip(parts, names, strict=True):
            values = {name: mean.value.item() for name, mean in losses.items()}
            text = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            lines.append((all(map(math.isfinite, values.values())), f"{text} in {', '.join(inside)}"))
        lines = gather_object(lines)
        bad = [line for is_finite, line in lines if not is_finite] or [line for _, line in lines]
        listed = "; ".join(bad[:4]) + (f"; and {len(bad) - 4} more" if len(bad) > 4 else "")
        return DivergedError(
            f"step {step}: expected finite losses and gradients; got gradient norm {norm:.4g}; {listed}; "
            "look at this data, or lower lr; the checkpoints are untouched"
        )

    def report(self, every: int, last: bool) -> None:
        """Tell the progress of a step, and log it if its turn has come."""
        timing = {"seconds_per_step": self.seconds / self.num_steps, "data_wait": self.waited / self.seconds}
        row = {"kind": "train", "step": self.step, "time": time.time(), **self.row, **timing}
        if last or self.step % every == 0:
            row["monitor"] = self.task.monitor()
            self.seconds, self.waited, self.num_steps = 0.0, 0.0, 0
            if self.log:
                self.log.write(row)
        if self.log and self.progress:
            self.progress(row)

    def evaluate(self) -> None:
        """Score the task with averaged weights where there are some; every process does the same, the main one logs."""
        self.task.eval()
        with torch.no_grad(), self._autocast(), self.ema.applied() if self.ema else nullcontext():
            if isinstance(self.task, FSDPModule):  # gathers by itself for `forward` alone
                self.task.unshard()
            scores = self.task.evaluate()
            if isinstance(self.task, FSDPModule):
                self.task.reshard()
        self.task.train()
        row = {"kind": "evaluation", "step": self.step, "time": time.time(), "scores": scores}
        if self.log:
            self.log.write(row)
            if self.progress:
                self.progress(row)

    def save(self) -> Path:
        """Write a checkpoint, the log before it."""
        if self.log:
            self.log.sync()
        names = {parameter: name for name, parameter in self.parameters.items()}
        parts = {
            checkpoint.MODEL: self.task.state_dict(),
            checkpoint.OPTIMIZER: checkpoint.optimizer_state(self.optimizer, names),
        }
        if self.ema:
            parts[checkpoint.EMA] = self.ema.averages
        is_main = self.accelerator.is_main_process
        return checkpoint.save(self.folder, self.step, self.settings, parts, self.config.keep, is_main)
