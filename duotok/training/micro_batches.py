"""Micro-batches: who computes which, the seed of each, data made ahead of time, and what the network counts meanwhile.

A step is `micro_batches` forward and backward passes, shared among the processes. Everything random in pass (step, micro)
comes from two Philox blocks with the run's seed as the key, so nothing depends on what was computed before it or where:

    words = philox(key = seed, counter = (step, micro, 0, stream))
    stream 0: the (2,) int64 seed that `Task.forward` gets;  stream 1: the seed of torch's generators (dropout)
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from duotok.kernels.philox import philox

from .task import Batch


def share(micro_batches: int, num_processes: int, process: int) -> range:
    """Name the micro-batches of one process: equal, consecutive shares.

    Raises:
        ValueError: if they cannot be shared equally.
    """
    if micro_batches % num_processes:
        raise ValueError(
            f"micro_batches: expected a multiple of the {num_processes} processes; got {micro_batches}; change one"
        )
    each = micro_batches // num_processes
    return range(process * each, (process + 1) * each)


def seeds(seed: int, step: int, micro: int) -> tuple[Tensor, int]:
    """Draw the seed (2,) int64 of a micro-batch's forward pass, and the seed of torch's generators for it."""
    counter = (torch.tensor(word) for word in (step, micro, 0))
    words = philox(torch.tensor(seed), *counter, torch.arange(2))  # (2, 4)
    pairs = (words[:, 0::2] << 31) ^ words[:, 1::2]  # 63 bits, never negative
    return pairs[0], int(pairs[1, 0])


class Prefetcher:
    """Batches made by one background thread, in order, at most `depth` of them ahead; `waited` counts the seconds lost."""

    def __init__(self, make: Callable[[int, int], Batch], order: Iterable[tuple[int, int]], depth: int, pin: bool) -> None:
        """Start to make the batches of `order`, pairs (step, micro); `pin` them for a GPU."""
        self._make, self._order, self._pin = make, iter(order), pin
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ahead: deque = deque()
        self.waited = 0.0
        self._submit(depth)

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def next(self) -> Batch:
        """Wait for the next batch; an error in making it is raised here."""
        start = time.perf_counter()
        batch = self._ahead.popleft().result()
        self.waited += time.perf_counter() - start
        self._submit(1)
        return batch

    def _submit(self, number: int) -> None:
        for step, micro in itertools.islice(self._order, number):
            self._ahead.append(self._thread.submit(self._batch, step, micro))

    def _batch(self, step: int, micro: int) -> Batch:
        batch = self._make(step, micro)
        if self._pin:
            return Batch(batch.names, {name: tensor.pin_memory() for name, tensor in batch.tensors.items()})
        return batch


class RunningBuffers:
    """Buffers that the forward pass updates, made independent of the order and place of micro-batches.

    Every micro-batch starts from the step's own values; at the step's end floating buffers move by the mean of all changes
    and whole numbers by their sum. For a BatchNorm this is one update with the mean of the micro-batches' statistics.
    Covered are the buffers of batch norms and those registered on the task itself.
    """

    def __init__(self, task: nn.Module) -> None:
        norms = [module for module in task.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        self._live = list(dict.fromkeys(buffer for module in (*norms, task) for buffer in module.buffers(recurse=False)))

    def begin(self) -> None:
        """Remember the buffers at the start of a step."""
        self._before = [buffer.clone() for buffer in self._live]
        self._change = [torch.zeros_like(buffer) for buffer in self._live]

    @torch.no_grad()
    def collect(self) -> None:
        """Take the change that a micro-batch made, and undo it."""
        for live, before, change in zip(self._live, self._before, self._change, strict=True):
            change += live - before
            live.copy_(before)

    @torch.no_grad()
    def end(self, micro_batches: int, add_up: Callable[[Tensor], Tensor]) -> None:
        """Apply the changes of all micro-batches; `add_up` sums a tensor (...) over the processes."""
        for live, before, change in zip(self._live, self._before, self._change, strict=True):
            total = add_up(change)
            live.copy_(before + (total / micro_batches if live.is_floating_point() else total))
