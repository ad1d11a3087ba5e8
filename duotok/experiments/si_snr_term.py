"""The SI-SNR-improvement term of stage 4 on and off: two runs from one seed, compared on held-out scores.

python -m duotok.experiments.si_snr_term --data corpus/manifest.jsonl --tokenizer tiny -o si_snr_term train.steps=1000
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .report import Report, table, write_report
from .runs import run

_SCORES = {"epsilon": "L_eps", "si_snr_improvement": "SI-SNR improvement, dB", "latent_error": "error of the clean latents"}


def compare(config: str, overrides: Sequence[str], out: Path) -> dict[str, list[dict]]:
    """Train with the configured weight of L_SI and with 0; a stopped comparison goes on.

    Args:
        config: of stage 4, a name or a path.
        overrides: `key=value` changes.
        out: folder of both runs.

    Returns:
        for "on" and "off", the rows of the log that are evaluations.
    """
    arms = {"on": [], "off": ["si_weight=0"]}
    return {name: run(config, [*overrides, *more], out / name) for name, more in arms.items()}


def main(arguments: Sequence[str]) -> None:
    """Run the comparison and write its page."""
    parser = argparse.ArgumentParser(prog="python -m duotok.experiments.si_snr_term", description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--config", default="tiny/stage4")
    parser.add_argument("--data", required=True)
    parser.add_argument("--tokenizer", default="tiny")
    parser.add_argument("--autoencoder", default="''", help="a folder; default: the tokenizer's own")
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    places = [f"data.manifest={given.data}", f"tokenizer={given.tokenizer}", f"autoencoder={given.autoencoder}"]
    found = compare(given.config, [*places, *given.overrides], given.out)
    write_report(given.out, describe(found), arguments)


def describe(found: dict[str, list[dict]]) -> Report:
    """Lay out what `compare` found."""
    last = {name: rows[-1]["scores"] for name, rows in found.items()}
    rows = [(label, last["on"][score], last["off"][score]) for score, label in _SCORES.items()]
    text = (
        f"Held-out scores after {found['on'][-1]['step']} steps from one seed; L_eps and the error are better when lower, the "
        f"improvement when higher.\n\n{table(rows, ('score', 'L_SI on', 'L_SI off'))}"
    )
    panels = {
        label: {f"L_SI {name}": [(row["step"], row["scores"][score]) for row in rows] for name, rows in found.items()}
        for score, label in _SCORES.items()
    }
    return Report("si_snr_term", "The SI-SNR term, on and off", text, {"evaluations": found}, panels, "step")


if __name__ == "__main__":
    main(sys.argv[1:])
