"""A small task with everything the loop must be careful of: batch norm, dropout, counts, a head that is not always used."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from duotok.training.loop import TrainConfig
from duotok.training.task import Batch, Task

CONFIG = TrainConfig(
    steps=24, micro_batches=4, lr=1e-2, warmup_steps=4, schedule="cosine", ema_decay=0.9, clip=1.0,
    log_every=2, evaluate_every=6, save_every=5, keep=2, prefetch=3,
)  # fmt: skip


class ToyTask(Task):
    """Learns y = |x0| - x1; `poison` names a (step, micro) whose data is NaN."""

    def __init__(self, poison: tuple[int, int] | None = None, width: int = 16) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(
                nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, width), nn.ReLU()
            )
            self.head, self.rare_head, self.frozen = nn.Linear(width, 1), nn.Linear(width, 1), nn.Linear(4, 4)
        self.frozen.requires_grad_(False)
        self.register_buffer("positive", torch.zeros((), dtype=torch.int64))
        self.poison, self.width = poison, width

    def settings(self) -> dict:
        return {"width": self.width}

    def batch(self, step: int, micro: int) -> Batch:
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(1000 * step + micro))
        if (step, micro) == self.poison:
            x[3] = torch.nan
        return Batch(tuple(f"item-{step}-{micro}-{i}" for i in range(8)), {"x": x})

    def forward(self, batch: Batch, seed: Tensor) -> dict[str, Tensor]:
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
