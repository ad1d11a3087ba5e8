"""The tools of a run by name, as a file and as arguments of worker processes, and how they are built."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from duotok.config import parse
from duotok.files import write_atomically
from duotok.separation import make_separator
from duotok.storage import packaged
from duotok.tokenizer import DuoTok, load

from .plan import Plan
from .reader import MixturePolicy
from .remote import is_remote
from .songs import PlanError


@dataclass(frozen=True)
class Setup:
    """What a worker process needs to build its tools.

    Attributes:
        tokenizer: name, folder or hub id.
        device: of the tokenizer and the separator.
        separator, separator_weights, track, cache: see `make_separator` and `MixturePolicy`.
        publish: address (s3://..., or a folder) to which finished files are copied; None to none.
    """

    tokenizer: str
    device: str = "cpu"
    separator: str = "none"
    separator_weights: Path | None = None
    track: str = "accompaniment"
    cache: Path | None = None
    publish: str | None = None

    def build(self) -> tuple[DuoTok, MixturePolicy]:
        """Load the tokenizer and the separator.

        Raises:
            ValueError: if one of them cannot be loaded.
        """
        tokenizer = load(self.tokenizer, device=self.device)
        separator = make_separator(self.separator, self.separator_weights, self.device)
        return tokenizer, MixturePolicy(separator, self.track, self.cache)

    def absolute(self) -> Setup:
        """Name folders from the root, as the next command may come from elsewhere."""
        is_folder = self.tokenizer not in packaged() and Path(self.tokenizer).is_dir()
        return replace(
            self,
            tokenizer=str(Path(self.tokenizer).absolute()) if is_folder else self.tokenizer,
            separator_weights=self.separator_weights and self.separator_weights.absolute(),
            cache=self.cache and self.cache.absolute(),
            publish=self.publish if not self.publish or is_remote(self.publish) else str(Path(self.publish).absolute()),
        )

    def save(self, run: Path) -> None:
        """Write setup.json into a run."""
        write_atomically(run / "setup.json", (json.dumps(asdict(self.absolute()), indent=1, default=str) + "\n").encode())

    def check(self, plan: Plan, fingerprint: str, separator: str) -> None:
        """Refuse tools that are not those a run was planned with.

        Raises:
            PlanError: naming what differs.
        """
        for name, planned, found in (("tokenizer", plan.fingerprint, fingerprint), ("separator", plan.separator, separator)):
            if planned != found:
                raise PlanError(
                    f"{getattr(self, name)}: expected the {name} that the run was planned with, {planned[:16]}; got "
                    f"{found[:16]}; pass that one, or tokenize into another folder"
                )


def read_setup(run: Path) -> Setup:
    """Read setup.json of a run.

    Raises:
        PlanError: if it is absent or damaged.
    """
    path = run / "setup.json"
    try:
        return parse(Setup, json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError) as error:
        raise PlanError(f"{run}: expected a run that was planned; got {error}; run: duotok tokenize plan") from None
