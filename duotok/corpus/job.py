"""A run as one worker opens it: its tools, built once, and how the worker works."""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from duotok.tokenizer import DuoTok

from .heap import keep_freed_memory
from .lease import Claims
from .pipeline import Pipeline
from .plan import read_plan
from .reader import MixturePolicy
from .setup import Setup
from .stopwatch import Stopwatch, Timed
from .worker import run_metadata


@dataclass(frozen=True)
class Options:
    """How a worker works; nothing of it shows in the files of tokens.

    Attributes:
        threads: of torch on a CPU; None leaves them as they are.
        num_decoders: threads that decode and resample; 0 lets the encoder's thread do it.
        queue_s: seconds of audio, of one track, that may wait for the encoder.
        beat_s: between signs of life of a claim.
        expiry_s: without a sign of life after which a claim is void; far above `beat_s`, and above the time that a network
            file system may show old data (60 s in NFS).
    """

    threads: int | None = None
    num_decoders: int = 1
    queue_s: float = 240.0
    beat_s: float = 1.0
    expiry_s: float = 90.0


class Job:
    """A run, opened by one worker."""

    def __init__(self, run: Path, setup: Setup, options: Options, tools: tuple[DuoTok, MixturePolicy] | None = None) -> None:
        """Open a run, with its tools as they are built from `setup`, or given.

        Raises:
            PlanError: if the tools are not those that it was planned with.
            ValueError: if they cannot be loaded.
        """
        keep_freed_memory()
        if options.threads:
            torch.set_num_threads(options.threads)
        self.run, self.setup, self.options = run, setup, options
        tokenizer, policy = tools or setup.build()
        self.metadata = run_metadata(tokenizer, policy)
        setup.check(read_plan(run), self.metadata["fingerprint"], policy.identity)
        self.identity = hashlib.sha256(json.dumps(self.metadata, sort_keys=True).encode()).hexdigest()
        self.claims = Claims(run, options.expiry_s)
        self.watch = Stopwatch()
        if policy.separator:
            policy = replace(policy, separator=Timed(policy.separator, self.watch, "separate"))
        self.pipeline = Pipeline(tokenizer, policy, self.watch, options.num_decoders, options.queue_s)
        _time_features(tokenizer, self.watch)


def _time_features(tokenizer: DuoTok, watch: Stopwatch) -> None:
    """Count the front end's time apart from the rest of the encoder's."""
    stage = ExitStack()

    def end(_: object, waves: tuple[torch.Tensor], mel: torch.Tensor) -> None:
        if mel.is_cuda:
            torch.cuda.synchronize(mel.device)
        stage.close()

    tokenizer.model.mel.register_forward_pre_hook(lambda *_: stage.enter_context(watch.stage("features")))
    tokenizer.model.mel.register_forward_hook(end)
