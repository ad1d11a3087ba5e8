"""Gaussian replacement on and off: stages 2 and 3 twice from one stage 1 and one seed, and what the codes are worth.

python -m duotok.experiments.gaussian_noise --data corpus/manifest.jsonl --init runs/stage1 -o gaussian_noise \
    --stage2 train.steps=300 --stage3 train.steps=300

The paper reports that noise makes the codes easier to predict (lower perplexity) at some cost in the Mel spectrum.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from duotok.dataset.songs import load_songs
from duotok.evaluation.bits import BitsConfig
from duotok.evaluation.quality import QualityConfig, code_songs, first_minutes, measure
from duotok.files import write_atomically
from duotok.model.bottleneck import TRACKS
from duotok.training import stages

from .report import Report, table, write_report
from .runs import run

ARMS = {"on": [], "off": ["model.bottleneck.replace_p=0"]}
_SCORES = ("mel", "chroma", "lyrics")
_MEASURES = ("unigram_bits", "language_model_bits", "gain_bits", "distinct_per_1000", "mel_l1", "chroma_l1", "chroma_r2")


def compare(given: argparse.Namespace) -> dict[str, dict]:
    """Train and measure both arms; a stopped comparison goes on.

    Returns:
        for "on" and "off": the evaluations of both stages, and the measures of the tokenizer.
    """
    found, data = {}, f"data.manifest={given.data}"
    for arm, more in ARMS.items():
        folder = given.out / arm
        evaluations = {
            "stage2": run(given.config2, [data, *more, *given.stage2], folder / "stage2", given.init),
            "stage3": run(given.config3, [data, *given.stage3], folder / "stage3", folder / "stage2"),
        }
        found[arm] = {"evaluations": evaluations, "measures": _measured(folder, given)}
    return found


def _measured(folder: Path, given: argparse.Namespace) -> dict[str, float]:
    """Measure an arm's tokenizer, once."""
    file = folder / "measures.json"
    if not file.exists():
        tokenizer = stages.export(folder / "stage3", folder / "tokenizer")
        songs = load_songs(Path(given.data), given.cache, tokenizer.sample_rate, 6.0)
        train = first_minutes(songs.train, given.minutes, tokenizer.sample_rate)
        coded = code_songs(tokenizer, [*train, *songs.held_out])
        config = QualityConfig(BitsConfig(steps=given.lm_steps))
        measures = measure(tokenizer, coded[: len(train)], coded[len(train) :], config)
        write_atomically(file, json.dumps(measures, indent=1).encode())
    return json.loads(file.read_text())


def main(arguments: Sequence[str]) -> None:
    """Run the comparison and write its page."""
    parser = argparse.ArgumentParser(prog="python -m duotok.experiments.gaussian_noise", description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--init", type=Path, required=True, help="run of stage 1")
    parser.add_argument("--config2", default="tiny/stage2")
    parser.add_argument("--config3", default="tiny/stage3")
    parser.add_argument("--stage2", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--stage3", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--minutes", type=float, default=60.0, help="of songs that language model and probes learn from")
    parser.add_argument("--lm-steps", type=int, default=400)
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    write_report(given.out, describe(compare(given)), arguments)


def describe(found: dict[str, dict]) -> Report:
    """Lay out what `compare` found."""
    scores = {arm: rows["evaluations"]["stage3"][-1]["scores"] for arm, rows in found.items()}
    measures = {arm: rows["measures"] for arm, rows in found.items()}
    names = [f"{track}_{name}" for name in _MEASURES for track in TRACKS if f"{track}_{name}" in measures["on"]]
    rows = [
        (f"held-out {name} loss, stage 3", scores["on"][name], scores["off"][name]) for name in _SCORES if name in scores["on"]
    ]
    rows += [(name, measures["on"][name], measures["off"][name]) for name in names]
    bits = {arm: sum(values[f"{track}_language_model_bits"] for track in TRACKS) for arm, values in measures.items()}
    lower = min(bits, key=bits.get)
    text = (
        f"One seed, {found['on']['evaluations']['stage2'][-1]['step']} steps of stage 2 and "
        f"{found['on']['evaluations']['stage3'][-1]['step']} of stage 3. With the noise {lower} the language model needs fewer "
        f"bits for a frame of both tracks: {bits['on']:.3f} with it, {bits['off']:.3f} without. One seed shows no more than a "
        f"tendency.\n\n{table(rows, ('', 'noise on', 'noise off'))}"
    )
    panels = {
        f"{stage}: held-out {name}": {
            f"noise {arm}": [(row["step"], row["scores"][name]) for row in rows["evaluations"][stage]]
            for arm, rows in found.items()
        }
        for stage in ("stage2", "stage3")
        for name in ("mel", "chroma")
    }
    return Report("gaussian_noise", "Gaussian replacement, on and off", text, {"arms": found}, panels, "step")


if __name__ == "__main__":
    main(sys.argv[1:])
