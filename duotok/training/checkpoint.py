"""Checkpoints of a run: folders step-000123 with safetensors for every tensor and JSON for the rest; nothing is pickled.

    model.safetensors       the task's state: parameters and buffers
    ema.safetensors         averaged parameters, where EMA is on
    optimizer.safetensors   `PARAMETER.exp_avg` and so on
    state.json              step, settings, and the SHA-256 of the files above

There is no random state to keep: everything random is a function of (seed, step, micro). A folder appears under its name
only when it is whole, and is whole only if the hashes match.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import torch as safetensors
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from duotok.files import make_folder, write_atomically
from duotok.storage import CheckpointError

MODEL, EMA, OPTIMIZER, STATE = "model", "ema", "optimizer", "state.json"
_FORMAT = 1
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk: its folder, the step it was taken after, and the run's settings."""

    folder: Path
    step: int
    settings: dict

    def read(self, part: str) -> dict[str, Tensor]:
        """Read the tensors (...) of a part, `MODEL`, `EMA` or `OPTIMIZER`, by name."""
        return safetensors.load_file(self.folder / f"{part}.safetensors")


@contextmanager
def alone_in(run: Path) -> Iterator[None]:
    """Keep other processes from training in a run's folder meanwhile; the lock ends with the process.

    Raises:
        CheckpointError: if another process trains there.
    """
    make_folder(run)
    lock = FileLock(run / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise CheckpointError(
            f"{run}: expected a folder in which no other process trains; got one that is in use; wait, or choose another"
        ) from None
    try:
        yield
    finally:
        lock.release()


def save(
    run: Path, step: int, settings: dict, parts: Mapping[str, Mapping[str, Tensor]], keep: int, is_main: bool = True
) -> Path:
    """Write a checkpoint, then remove all but the newest `keep`.

    Every process calls this, because sharded tensors are gathered here; the main one writes.

    Args:
        run: folder of the run.
        settings: plain values.
        parts: tensors of any shapes (...) by name, by part.

    Raises:
        WriteError: if the disk is full, or the folder cannot be written to.
    """
    final, temporary = run / f"step-{step:06d}", run / f".step-{step:06d}.tmp"
    if is_main:
        for unfinished in run.glob(".step-*.tmp"):
            _discard(unfinished)
        make_folder(temporary)
    hashes = {}
    for part, tensors in parts.items():
        gathered = {name: whole(tensor) for name, tensor in tensors.items()}
        if is_main:  # copies, because safetensors refuses tensors that share memory
            copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in gathered.items()}
            data = safetensors.save(copies, metadata={"format": "pt"})
            write_atomically(temporary / f"{part}.safetensors", data)
            hashes[part] = hashlib.sha256(data).hexdigest()
    if is_main:
        state = {"format_version": _FORMAT, "step": step, "settings": settings, "sha256": hashes}
        write_atomically(temporary / STATE, json.dumps(state, indent=1).encode())
        _discard(final)  # a broken one of the same step
        temporary.rename(final)
        for old in _folders(run)[keep:]:
            _discard(old)
    return final


def latest(run: Path) -> Checkpoint | None:
    """Find the newest whole checkpoint of a run, warning of broken ones that are newer; None if there is none at all.

    Raises:
        CheckpointError: if all are broken.
    """
    folders = _folders(run)
    for folder in folders:
        try:
            return read(folder)
        except CheckpointError as error:
            _log.warning("skipped %s", error)
    if folders:
        raise CheckpointError(f"{run}: expected a whole checkpoint; got {len(folders)} broken; remove them to start anew")
    return None


def read(folder: Path) -> Checkpoint:
    """Read a checkpoint's state and check its files.

    Raises:
        CheckpointError: if a file is missing, cut short or changed.
    """
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        if state["format_version"] != _FORMAT:
            raise CheckpointError(f"{folder}: expected format_version {_FORMAT}; got {state['format_version']}")
        for part, expected in state["sha256"].items():
            if _sha256(folder / f"{part}.safetensors") != expected:
                raise CheckpointError(f"{folder}: expected {part}.safetensors as it was written; got other bytes")
        return Checkpoint(folder, state["step"], state["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{folder}: expected a whole checkpoint; got {type(error).__name__}: {error}") from None


def read_weights(run: Path, averaged: bool = True) -> dict[str, Tensor]:
    """Read a trained task's state from its run's newest checkpoint.

    Args:
        averaged: take the averaged parameters where EMA was on.

    Returns:
        tensors of any shapes (...) by name, for `Task.load_state_dict`.

    Raises:
        CheckpointError: if there is none.
    """
    found = latest(run)
    if found is None:
        raise CheckpointError(f"{run}: expected a run with a checkpoint; got none; train first")
    has_average = averaged and (found.folder / f"{EMA}.safetensors").exists()
    return {**found.read(MODEL), **(found.read(EMA) if has_average else {})}


def check_settings(found: Checkpoint, settings: dict, may_change: set[str]) -> None:
    """Refuse to go on with other settings than the checkpoint's.

    Raises:
        CheckpointError: naming the first field that differs and is not in `may_change`.
    """
    old, new = _flat(found.settings), _flat(json.loads(json.dumps(settings)))
    for name in sorted(old.keys() | new.keys()):
        if name not in may_change and old.get(name) != new.get(name):
            raise CheckpointError(
                f"{name}: expected {old.get(name)!r} as in {found.folder}; got {new.get(name)!r}; "
                "change it back, or train in another folder"
            )


def whole(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor (...) from all processes; return any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def placed(tensor: Tensor, like: Tensor) -> Tensor:
    """Bring a whole tensor (...) to the device of `like`, sharded as it is."""
    tensor = tensor.to(like.device)
    return distribute_tensor(tensor, like.device_mesh, like.placements) if isinstance(like, DTensor) else tensor


def optimizer_state(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """List the optimizer's tensors (...) as `PARAMETER.FIELD`; `names` gives every parameter's name."""
    state = optimizer.state
    return {f"{names[parameter]}.{field}": value for parameter in state for field, value in state[parameter].items()}


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], tensors: dict[str, Tensor]
) -> None:
    """Set the optimizer's tensors (...) from what `optimizer_state` listed."""
    for key, value in tensors.items():
        name, field = key.rsplit(".", 1)
        parameter = parameters[name]  # AdamW counts its steps on the CPU
        optimizer.state[parameter][field] = value if field == "step" else placed(value, parameter)


def _folders(run: Path) -> list[Path]:
    """Checkpoints by name, newest first."""
    found = [path for path in run.glob("step-*") if path.name.removeprefix("step-").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def _discard(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _flat(values: dict, prefix: str = "") -> dict:
    """Dotted names of nested mappings' leaves."""
    flat = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
