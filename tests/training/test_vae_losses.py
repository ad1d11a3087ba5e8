"""The autoencoder's losses against written-out cases, and each moves the right way."""

from __future__ import annotations

import math

import librosa
import numpy as np
import pytest
import torch
from scipy import signal
from signals import noise
from torch.distributions import Normal
from torch.distributions.kl import kl_divergence as torch_kl

from duotok.model.mel_distance import SCALES, mean_spectrum_distance, mel_distance
from duotok.training import vae_losses
from duotok.training.discriminator import Discriminator, DiscriminatorConfig, adversarial_losses

RATE = 24_000
# ITU-R BS.1770-4, tables 1 and 2: the coefficients at 48 kHz.
STANDARD = (
    ((1.53512485958697, -2.69169618940638, 1.19839281085285), (1.0, -1.69065929318241, 0.73248077421585)),
    ((1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621)),
)


def tones(*partials: float, seconds: float = 0.5, phase: float = 0.0) -> torch.Tensor:
    t = torch.arange(round(seconds * RATE), dtype=torch.float64) / RATE
    return sum(0.2 * torch.sin(2 * math.pi * f * t + phase) for f in partials).float()[None, None]


def test_k_weighting_is_the_standards():
    """The standard's own coefficients at 48 kHz; scipy's filter run over the wave, at another rate."""
    for ours, theirs in zip(vae_losses.k_weighting_filters(48_000), STANDARD, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)
    wave = noise(2, 1, 6000)
    expected = wave.double().numpy()
    for numerator, denominator in vae_losses.k_weighting_filters(RATE):
        expected = signal.lfilter(numerator, denominator, expected)
    np.testing.assert_allclose(vae_losses.k_weighting(wave, RATE).numpy(), expected, rtol=0, atol=1e-6)


def test_views_of_stereo_and_mono():
    wave = noise(2, 2, 100)
    mid, side, left, right = vae_losses.mid_side_left_right(wave).unbind(1)
    torch.testing.assert_close(mid + side, left)
    torch.testing.assert_close(mid - side, right)
    assert torch.equal(vae_losses.mid_side_left_right(wave[:, :1]), wave[:, :1])


def test_stft_loss_of_a_gain_is_known():
    """g x against x: spectral convergence |g - 1|, log-magnitudes |ln g|, at every size."""
    wave = noise(1, 1, 4800)
    found = vae_losses.multi_resolution_stft(0.5 * wave, wave, [512, 128], RATE)
    assert abs(found - (0.5 + math.log(2))) < 1e-3
    louder = vae_losses.multi_resolution_stft(0.9 * wave, wave, [512, 128], RATE)
    assert vae_losses.multi_resolution_stft(wave, wave, [512, 128], RATE) == 0 < louder < found


def test_stft_loss_hears_what_mid_and_side_hide():
    """Exchanged channels have the same left and right spectra together; silence against silence is nothing."""
    wave = noise(1, 2, 4800)
    assert vae_losses.multi_resolution_stft(wave.flip(1), wave, [512], RATE) > 0.3
    loss = vae_losses.multi_resolution_stft(torch.zeros(1, 1, 4800, requires_grad=True), torch.zeros(1, 1, 4800), [512], RATE)
    assert loss == 0


def test_phase_derivatives_of_one_tone_are_known():
    """A phase offset is no error; a tone g Hz off turns 2 pi g hop / rate further each hop, and 1 - cos of that is the loss."""
    tone = tones(1000)
    assert vae_losses.phase_derivatives(tones(1000, phase=1.0), tone, 1024) < 0.01
    spectra = [vae_losses.stft(wave, 1024, 256) for wave in (tones(1010), tone)]
    turns = [s[..., 1:, 43] * s[..., :-1, 43].conj() for s in spectra]  # the bin of 1 kHz
    angle = (turns[0] / turns[1]).angle()[..., 4:-4].mean()
    assert abs(angle - 2 * math.pi * 10 * 256 / RATE) < 0.01
    near, far = (vae_losses.phase_derivatives(tones(f), tone, 1024) for f in (1005, 1020))
    assert 0 < near < far


def test_stereo_correlation_of_a_turned_channel_is_known():
    """Left against right turned by an angle, in every bin: 1 - cos; mono has none."""
    wave = torch.cat((tones(500, 2000), tones(500, 2000)), dim=1)
    for angle in (0.5, 2.0):
        turned = torch.cat((wave[:, :1], tones(500, 2000, phase=angle)), dim=1)
        assert abs(vae_losses.stereo_correlation(turned, wave, 1024) - (1 - math.cos(angle))) < 0.02
    assert vae_losses.stereo_correlation(wave, wave, 1024) < 0.002
    assert vae_losses.stereo_correlation(wave[:, :1], wave[:, :1], 1024) == 0


def test_compressed_spectrum_of_a_flipped_sign_is_twice_the_spectrum():
    wave = noise(1, 1, 4800)
    flipped, silent = (vae_losses.compressed_spectrum(factor * wave, wave, 512) for factor in (-1, 0))
    torch.testing.assert_close(flipped, 2 * silent)
    assert vae_losses.compressed_spectrum(0.9 * wave, wave, 512) < silent


def test_kl_divergence_is_torchs():
    mean, std = noise(2, 5, 8, scale=2.0), noise(2, 5, 8, scale=1.0).abs() + 0.1
    expected = torch_kl(Normal(mean, std), Normal(0.0, 1.0)).sum(-1).mean()
    torch.testing.assert_close(vae_losses.kl_divergence(mean, std), expected, rtol=1e-4, atol=1e-4)
    assert vae_losses.kl_divergence(torch.zeros(1, 3, 4), torch.ones(1, 3, 4)) < 1e-5


def test_mel_distance_is_librosas():
    """Seven scales of power spectra in HTK bands without area norm, as Codec-Evaluation takes them from torchaudio."""
    waves = noise(1, 6000), 0.5 * noise(1, 6001)[:, 1:]
    distances = []
    for size, bands in SCALES.items():
        options = {"n_fft": size, "hop_length": size // 4, "n_mels": bands, "htk": True, "norm": None, "pad_mode": "reflect"}
        pair = [librosa.feature.melspectrogram(y=wave[0].double().numpy(), sr=RATE, **options) for wave in waves]
        ours, theirs = (np.log(np.maximum(mel, 1e-5)) for mel in pair)
        distances.append(np.abs(ours - theirs).mean())
    assert abs(mel_distance(*waves, RATE).item() - np.mean(distances)) < 1e-3


def test_mel_distance_of_a_gain_and_of_a_steady_sound():
    """Half the amplitude is ln 4 away wherever nothing lies on the floor; a steady sound is its own mean spectrum."""
    loud = 20 * noise(1, 6000)
    assert abs(mel_distance(0.5 * loud, loud, RATE) - math.log(4)) < 0.05
    steady, changing = tones(440, 880)[0], torch.cat((tones(440)[0], tones(5000)[0]), dim=1)
    assert mean_spectrum_distance(steady, RATE) < 0.5 * mean_spectrum_distance(changing, RATE)


def test_discriminator_and_generator_give_one_another_no_gradient():
    torch.manual_seed(0)
    judge = Discriminator(DiscriminatorConfig([256, 64], width=4), 1)
    wave, real = noise(2, 1, 2400).requires_grad_(), noise(2, 1, 2401)[..., 1:]
    losses = adversarial_losses(judge, wave, real)
    weights = list(judge.parameters())
    for name in ("adversarial", "features"):
        gradients = torch.autograd.grad(losses[name], [wave, *weights], retain_graph=True, allow_unused=True)
        assert gradients[0].abs().sum() > 0 and all(gradient is None for gradient in gradients[1:])
    gradients = torch.autograd.grad(losses["discriminator"], [wave, *weights], allow_unused=True)
    assert gradients[0] is None and all(gradient is not None for gradient in gradients[1:])


def test_adversarial_losses_are_hinges():
    class Mean(torch.nn.Module):  # its logits are ten times the wave's mean, and so is its feature
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(10.0))

        def forward(self, wave):
            return [[self.scale * wave.mean((1, 2)), self.scale * wave.mean((1, 2))]]

    fake, real = torch.full((1, 1, 8), 0.03), torch.full((1, 1, 8), -0.05)
    found = {name: value.item() for name, value in adversarial_losses(Mean(), fake, real).items()}
    expected = {"adversarial": 0.7, "features": 0.8 / 0.5, "discriminator": 1.5 + 1.3}
    assert found == pytest.approx(expected, rel=1e-5)
    sure = adversarial_losses(Mean(), torch.full((1, 1, 8), -0.2), torch.full((1, 1, 8), 0.2))
    assert sure["discriminator"] == 0 and sure["adversarial"].item() == pytest.approx(3)


def test_a_discriminator_learns_to_tell_noise_from_tones():
    torch.manual_seed(0)
    judge = Discriminator(DiscriminatorConfig([256], width=4), 1)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=3e-2)
    fake, real = noise(4, 1, 2400), tones(300, 900, seconds=0.1).expand(4, -1, -1)
    values = []
    for _ in range(40):
        loss = adversarial_losses(judge, fake, real)["discriminator"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.7 * values[0]
