"""Checkpoints on disk and on the hub: config.yaml, model.safetensors and fingerprint.txt. Pickle is never read.

A tokenizer's folder may hold two more of that form, `decoder/` and `autoencoder/`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import torch
import yaml
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from . import config as configuration
from .files import make_folder, write_atomically

CONFIG, WEIGHTS, FINGERPRINT = "config.yaml", "model.safetensors", "fingerprint.txt"
DECODER, AUTOENCODER = "decoder", "autoencoder"  # sub-folders of a tokenizer that can decode
_PACKAGED = Path(__file__).parent / "checkpoints"
T = TypeVar("T")
logger = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded; the message says what was expected, what is there and what to do."""


def write(
    folder: Path, config: str, state: dict[str, Tensor], fingerprint: str, notes: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Write a checkpoint's three files, the fingerprint last; `state` holds tensors of any shapes (...), `notes` the header."""
    make_folder(folder)
    weights = save({name: tensor.contiguous() for name, tensor in state.items()}, metadata={"format": "pt", **notes})
    write_atomically(folder / WEIGHTS, weights)
    write_atomically(folder / CONFIG, config.encode())
    write_atomically(folder / FINGERPRINT, f"{fingerprint}\n".encode())


def copy(source: Path, folder: Path) -> None:
    """Copy a checkpoint's three files into another folder, or leave them where they are."""
    make_folder(folder)
    if not folder.samefile(source):
        for name in (WEIGHTS, CONFIG, FINGERPRINT):
            write_atomically(folder / name, (source / name).read_bytes())


def fingerprint(config: object, state: Mapping[str, Tensor]) -> str:
    """Compute sha256 over a configuration (a dataclass) and weights (...) by name, their dtypes included."""
    digest = hashlib.sha256(json.dumps(_identity(config), sort_keys=True).encode())
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def halved(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Round float32 weights (...) to float16, as parts are stored whose numbers need not be exact to more."""
    return {name: tensor.half() if tensor.dtype == torch.float32 else tensor for name, tensor in state.items()}


def _identity(config: object) -> object:
    """A configuration as plain values, without the keyword-only fields that hold their default.

    Fields added to a configuration after a release are keyword-only, so that fingerprints made before still hold.
    """
    if not is_dataclass(config):
        return config
    named = [(f, getattr(config, f.name)) for f in fields(config)]
    return {f.name: _identity(value) for f, value in named if not (f.kw_only and value == f.default)}


def packaged() -> list[str]:
    """Name the checkpoints that ship with the package."""
    return sorted(path.name for path in _PACKAGED.iterdir() if path.is_dir())


def find(name: str | Path, **options) -> Path:
    """Find a checkpoint's folder: packaged by that name, a folder, or fetched from the hub (`snapshot_download` options).

    Raises:
        CheckpointError: if there is none.
    """
    text = str(name)
    if text in packaged():
        if Path(text).is_dir():
            logger.warning("%s is the tokenizer of the package; the folder of that name is ./%s", text, text)
        return _PACKAGED / text
    if text and Path(text).is_dir():
        return Path(text)
    if text.count("/") != 1 or text.startswith((".", "/")):
        raise CheckpointError(
            f"checkpoint: expected {', '.join(packaged())}, a folder, or a hub id owner/name; got {text!r}; correct the name"
        )
    try:
        files = [
            f"{folder}{name}" for folder in ("", f"{DECODER}/", f"{AUTOENCODER}/") for name in (CONFIG, WEIGHTS, FINGERPRINT)
        ]
        return Path(snapshot_download(text, allow_patterns=files, **options))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"checkpoint {text!r}: expected a tokenizer on the hub; got {type(error).__name__}; "
            "check the name and the network, or pass a folder"
        ) from error


def has_decoder(folder: Path | None) -> bool:
    """Say whether a tokenizer's folder holds a decoder."""
    return folder is not None and (folder / DECODER).is_dir()


def read_config(folder: Path, cls: type[T], format_version: int) -> T:
    """Read config.yaml into its dataclass, the version before anything else.

    Raises:
        CheckpointError: if a file is missing or the version is another.
        ConfigError: if a value is wrong.
    """
    for name in (CONFIG, WEIGHTS, FINGERPRINT):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder}: expected a file {name}; got none; use a folder that DuoTok.save or duotok export wrote"
            )
    try:
        raw = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        raw = None
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if version != format_version:
        raise CheckpointError(
            f"{folder / CONFIG}: expected format_version {format_version}; got {version}; "
            "install the duotok that wrote it, or export the tokenizer again"
        )
    return configuration.parse(cls, raw, str(folder / CONFIG))


def read_weights(folder: Path, model: nn.Module) -> None:
    """Load model.safetensors into a model.

    Raises:
        CheckpointError: if it is damaged or holds other tensors.
    """
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{folder / WEIGHTS}: expected the weights that {CONFIG} describes; got {reason}; download or export them again"
        ) from None


def check_fingerprint(folder: Path, fingerprint: str) -> None:
    """Compare a loaded checkpoint with what was saved.

    Raises:
        CheckpointError: if it differs.
    """
    stored = (folder / FINGERPRINT).read_text(encoding="utf-8", errors="replace").strip()
    if stored != fingerprint:
        raise CheckpointError(
            f"{folder}: expected fingerprint {stored[:16]}...; got {fingerprint[:16]}...: its files were changed or damaged; "
            "download them again, or save the tokenizer anew"
        )


def refuse_absent_device(device: str | torch.device) -> None:
    """Refuse a device that this machine lacks (ValueError)."""
    try:
        if torch.device(device).type not in ("cpu", "cuda"):
            raise RuntimeError("neither cpu nor cuda")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split(".")[0]
        raise ValueError(
            f"device: expected cpu or a device of this machine; got {str(device)!r}: {reason}; choose another"
        ) from None
