"""The contract between a stage and the loop: a `Task` holds the networks, makes its own batches and computes its losses.

The loop knows nothing of music. It asks for the batch of (step, micro), runs the forward pass with that micro-batch's own
seed and minimises "loss". Because a batch and a seed are functions of (step, micro) alone, neither a stop and a resume nor
the number of processes changes what is learned.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .losses import Mean


@dataclass(frozen=True)
class Batch:
    """One micro-batch.

    Attributes:
        names: what is in it, one name per item, for error messages.
        tensors: its data, of any shapes (B, ...).
    """

    names: tuple[str, ...]
    tensors: dict[str, Tensor]

    def to(self, device: torch.device | str) -> Batch:
        """Copy the tensors (B, ...) to a device, without waiting where their memory is pinned."""
        return Batch(self.names, {name: tensor.to(device, non_blocking=True) for name, tensor in self.tensors.items()})


class Task(nn.Module):
    """What the loop trains: networks, data and losses of one stage."""

    def batch(self, step: int, micro: int) -> Batch:
        """Make micro-batch `micro` of a step, on the CPU.

        It must be a pure function of the task's own configuration, `step` and `micro`, and not touch torch's global random
        state: it runs in a background thread, ahead of training.
        """
        raise NotImplementedError

    def forward(self, batch: Batch, seed: Tensor) -> dict[str, Tensor | Mean]:
        """Compute the losses of a micro-batch.

        Args:
            batch: what `batch` returned, on the model's device.
            seed: (2,) int64, different for every (step, micro); torch's generators are seeded with it too, so dropout
                needs no care.

        Returns:
            losses by name, the same names every time, each () or a `Mean`; "loss" () is minimised, the others are logged: a
            mean over all that a step's micro-batches sum up, and none where they sum up nothing.
        """
        raise NotImplementedError

    def parameter_groups(self) -> list[dict]:
        """List what trains, as `[{"params": [...], "lr_scale": 1.0}]`; a group may set its own weight_decay."""
        return [{"params": [parameter for parameter in self.parameters() if parameter.requires_grad], "lr_scale": 1.0}]

    def evaluate(self) -> dict[str, float]:
        """Score held-out data; called in eval mode, without gradients, with the averaged weights where EMA is on.

        It must not touch torch's random state.
        """
        return {}

    def monitor(self) -> dict[str, float]:
        """Give cheap numbers gathered since the last call, such as the share of codes in use; called when a row is logged.

        What it counts belongs in persistent buffers registered on the task itself: the loop adds up whole numbers, and
        averages floating ones, over micro-batches and processes, and checkpoints keep them.
        """
        return {}

    def settings(self) -> dict:
        """Return plain values that say what is learned (model, data, losses); a run is resumed only with the same ones."""
        return {}
