"""How long files really are: decoded to their end and checked, as tokenizing will do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from duotok.audio import open_audio
from duotok.integrity import AudioError, SignalCheck

# Stems of one song may differ by an encoder's padding.
_LENGTH_TOLERANCE_S = 0.1


def measure_stems(files: Sequence[tuple[Path, int]]) -> float:
    """Decode the files of a song, each with the number of its stream, and return its duration in seconds.

    Raises:
        AudioError: if a file cannot be trusted, all are silent, or rates or lengths differ.
    """
    rates, lengths, errors = [], [], []
    for path, stream in files:
        with open_audio(path, stream) as reader:
            check = SignalCheck(str(path), reader.info.sample_rate)
            for block in reader.blocks():
                check.push(block)
        try:
            check.finish()
        except AudioError as error:  # a silent stem is one that does not play
            if error.stage != "silence" or len(files) == 1:
                raise
            errors.append(error)
        rates.append(reader.info.sample_rate)
        lengths.append(reader.num_samples / rates[-1])
    if len(errors) == len(files):
        raise errors[0]
    facts = zip(files, lengths, rates, strict=True)
    names = ", ".join(f"{path.name} {length:.3f} s at {rate} Hz" for (path, _), length, rate in facts)
    if len(set(rates)) > 1:
        raise AudioError("open", "rate_mismatch", f"expected stems of one sample rate; got {names}; resample one")
    if max(lengths) - min(lengths) > _LENGTH_TOLERANCE_S:
        raise AudioError("validate", "length_mismatch", f"expected stems of one length; got {names}; check the pair")
    return min(lengths)
