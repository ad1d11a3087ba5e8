"""The shipped tokenizer still computes what it was released with: float64, so that every machine agrees to 1e-6.

`python tests/test_golden.py` writes the file anew, after new weights were shipped.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch

import duotok

GOLDEN = Path(__file__).parent / "golden" / "tiny.npz"


def song() -> tuple[np.ndarray, np.ndarray]:
    """Two seconds of vibrato and of a rising chord at 24 kHz, float64."""
    time = np.arange(48_000) / 24_000
    voice = 0.3 * np.sin(2 * np.pi * (220 * time + 2 * np.sin(2 * np.pi * 5 * time)))
    chord = sum(0.1 * np.sin(2 * np.pi * f * time * (1 + 0.05 * time)) for f in (110, 138.6, 164.8, 1760))
    return voice, chord


def compute(tokenizer: duotok.DuoTok) -> dict[str, np.ndarray]:
    """Codes, narrow features and head outputs of the song."""
    model = copy.deepcopy(tokenizer.model).double()
    wave, tracks = torch.from_numpy(np.stack(song())), torch.tensor([0, 1])
    with torch.inference_mode():
        hidden = model.trunk.encode(model.mel(wave))
        out = model(wave, tracks)
        narrow = [branch.narrow(hidden[i]) for i, branch in enumerate(model.trunk.bottleneck.branches)]
        heads = {name: head(out.hidden)[:, ::7].numpy() for name, head in model.heads.items() if name != "lyrics"}
    return {
        "fingerprint": np.array(tokenizer.fingerprint),
        "codes": out.bottleneck.indices.numpy(),
        "narrow": torch.stack(narrow).numpy(),
        **heads,
    }


def test_shipped_tokenizer_equals_its_golden_values(tokenizer):
    golden, now = np.load(GOLDEN), compute(tokenizer)
    assert str(golden["fingerprint"]) == str(now["fingerprint"]), "new weights: run python tests/test_golden.py"
    assert np.array_equal(golden["codes"], now["codes"])
    for name in ("narrow", "mel", "chroma"):
        np.testing.assert_allclose(now[name], golden[name], rtol=0, atol=1e-6)


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, **compute(duotok.load("tiny")))
