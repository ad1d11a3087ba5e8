"""Autoencoders: lengths, inverses, noise by seed, the receptive field, and the ear-VAE's published names."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import soxr
import torch
from safetensors.torch import save_file
from signals import noise

from duotok import autoencoder as autoencoders
from duotok.model.mel_distance import mean_spectrum_distance, mel_distance
from duotok.model.oobleck import Convolution, EarConfig, LatentTransformer, Snake
from duotok.model.spectral import SpectralConfig, istft, stft
from duotok.model.vae import EAR_VAE, AutoencoderConfig, make_autoencoder
from duotok.storage import CheckpointError, find
from duotok.training.stages import load_config

SMALL = AutoencoderConfig(spectral=SpectralConfig(width=16, kernel_size=3, encoder_blocks=2, decoder_blocks=1))
STEREO = AutoencoderConfig(sample_rate=48_000, channels=2, latent_dim=8, spectral=SpectralConfig(960, 240, 720, width=16))
# The release, and the paper's 50 Hz at 48 kHz, both narrow.
EAR = replace(EAR_VAE, ear=EarConfig(width=2))
EAR_50 = replace(EAR, sample_rate=48_000, ear=EarConfig(width=2, strides=[2, 4, 4, 5, 6]))
KEYS = Path(__file__).parents[1] / "golden" / "ear_vae_keys.json"
SEED = torch.tensor([5, 9])


def build(config: AutoencoderConfig):
    torch.manual_seed(0)
    return make_autoencoder(config).eval()


@pytest.mark.parametrize("config", [SMALL, STEREO, EAR_50], ids=["spectral", "stereo", "ear"])
def test_lengths_rates_and_noise(config):
    """T = ceil(S / hop) latents go in, T * hop samples come out; the seed alone says what is drawn."""
    model = build(config)
    hop = model.hop_length
    assert model.latent_rate == config.sample_rate / hop
    for num_samples in (2 * hop + 1, 3 * hop):
        wave = noise(2, config.channels, num_samples)
        latents = model.encode(wave)
        assert latents.shape == (2, 3, config.latent_dim)
        assert model.decode(latents).shape == (2, config.channels, 3 * hop)
    posterior = model.posterior(wave)
    torch.testing.assert_close(model.encode(wave), posterior.mean, rtol=0, atol=1e-4)  # nothing is normalised yet
    torch.testing.assert_close(model.encode(wave, SEED), posterior.sample(SEED), rtol=0, atol=1e-4)
    assert torch.equal(posterior.sample(SEED), posterior.sample(SEED))
    assert not torch.equal(posterior.sample(SEED), posterior.sample(SEED + 1))
    standard = (posterior.sample(SEED) - posterior.mean) / posterior.std
    assert abs(standard.mean()) < 0.4 and abs(standard.std() - 1) < 0.3


def test_rates_are_the_papers_and_the_releases():
    assert build(SMALL).latent_rate == build(EAR_50).latent_rate == 50
    assert (build(EAR).hop_length, round(build(EAR).latent_rate, 2)) == (1024, 43.07)


@pytest.mark.parametrize("config", [SMALL, EAR, EAR_50], ids=["spectral", "ear", "ear-50"])
def test_a_frame_depends_on_context_frames_and_no_more(config):
    """Gradients reach exactly `context_frames` to the worse side of encoder and decoder (new Transformers are nothing)."""
    model = build(config)
    hop, context, middle = model.hop_length, model.context_frames, model.context_frames + 2
    num_frames = 2 * middle + 1
    wave = noise(1, config.channels, num_frames * hop).requires_grad_()
    [reached] = torch.autograd.grad(model.encode(wave)[0, middle].sum(), wave)
    heard = reached.abs().sum((0, 1)).reshape(num_frames, hop).sum(1).nonzero().flatten() - middle
    latents = noise(1, num_frames, config.latent_dim).requires_grad_()
    out = model.decode(latents)[..., middle * hop : (middle + 1) * hop]
    [reached] = torch.autograd.grad(out.square().sum(), latents)
    used = reached.abs().sum((0, 2)).nonzero().flatten() - middle
    assert heard.abs().max() <= context and used.abs().max() <= context
    assert max(heard.abs().max(), used.abs().max()) == context


def test_windows_give_what_the_whole_gives():
    model = build(SMALL)
    hop, context = model.hop_length, model.context_frames
    latents = noise(1, 60, 32, scale=1.0)
    whole, part = model.decode(latents), model.decode(latents[:, 20 - context : 40 + context])
    inside = slice(context * hop, (20 + context) * hop)
    torch.testing.assert_close(part[..., inside], whole[..., 20 * hop : 40 * hop], rtol=0, atol=1e-5)
    wave = noise(1, 1, 60 * hop)
    whole, part = model.encode(wave), model.encode(wave[..., (20 - context) * hop : (40 + context) * hop])
    torch.testing.assert_close(part[:, context : 20 + context], whole[:, 20:40], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("n_fft", "hop"), [(960, 240), (720, 240), (512, 128), (64, 32)])
def test_the_inverse_transform_is_exact_up_to_the_ends(n_fft, hop):
    wave = noise(2, 7 * hop).requires_grad_()
    back = istft(stft(wave, n_fft, hop), n_fft, hop)
    torch.testing.assert_close(back, wave, rtol=0, atol=1e-5)
    back.square().sum().backward()
    assert wave.grad.isfinite().all()


def test_spectra_are_those_of_torch():
    """A full-scale sine is 1/2 at its bin, and frames lie where torch.stft puts them."""
    wave = torch.sin(2 * math.pi * 12 / 240 * torch.arange(2400)).float()[None]
    ours = stft(wave, 240, 60)
    assert abs(ours[0, 20, 12].abs() - 0.5) < 1e-4
    window = torch.hann_window(240)
    padded = torch.nn.functional.pad(wave, (90, 90))
    theirs = torch.stft(padded, 240, 60, window=window, center=False, return_complex=True).transpose(1, 2) / window.sum()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_latents_are_normalised_outside_and_not_inside():
    """Statistics gathered in training become zero mean and unit variance outside, and change no reconstruction."""
    model = build(SMALL)
    wave = noise(4, 1, 40 * 480)
    before = model.decode(model.encode(wave))
    raw = model.posterior(wave).mean
    model.train()
    for _ in range(400):
        model.observe(raw * 3 + 1)
    model.eval()
    model.observe(raw * 100)
    latents = model._normalize(raw * 3 + 1)
    torch.testing.assert_close(latents.mean((0, 1)), torch.zeros(32), rtol=0, atol=0.01)
    torch.testing.assert_close(latents.std((0, 1)), torch.ones(32), rtol=0, atol=0.01)
    torch.testing.assert_close(model.decode(model.encode(wave)), before, rtol=0, atol=1e-4)
    assert {"latent_norm.running_mean", "latent_norm.running_var"} <= model.state_dict().keys()


@pytest.mark.parametrize("config", [EAR_VAE, load_config("vae").model], ids=["release", "paper"])
def test_paper_size_has_the_releases_names_and_shapes(config):
    """386 tensors, 147.9 M numbers; at 50 Hz only the strided convolutions differ."""
    published = json.loads(KEYS.read_text())
    with torch.device("meta"):
        own = {name: list(tensor.shape) for name, tensor in make_autoencoder(config).state_dict().items()}
    assert own.keys() == published.keys() and len(own) == 386
    others = {name for name in own if own[name] != published[name]}
    if config == EAR_VAE:
        assert not others and sum(map(math.prod, own.values())) == 147_856_658
    else:
        strided = ("encoder.layers.4.layers.4", "encoder.layers.5.layers.4")
        transposed = ("decoder.layers.1.layers.1", "decoder.layers.2.layers.1")
        assert others == {f"{place}.weight_v" for place in (*strided, *transposed)}


@pytest.mark.parametrize("suffix", [".safetensors", ".pyt"])
def test_a_checkpoint_with_the_published_names_loads(tmp_path, suffix):
    """Random weights under the release's names, in a narrow network, load from either kind of file; both directions run."""
    published = json.loads(KEYS.read_text())
    shapes = {name: list(tensor.shape) for name, tensor in build(EAR).state_dict().items()}
    assert shapes.keys() == published.keys()
    generator = torch.Generator().manual_seed(1)
    state = {name: 0.3 * torch.randn(shapes[name], generator=generator) for name in published}
    path = tmp_path / f"ear_vae_44k{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    model = autoencoders.read_ear_vae(path, EAR)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    latents = model.encode(noise(1, 2, 5000))
    assert latents.shape == (1, 5, 64) and model.decode(latents).isfinite().all()
    autoencoders.save_autoencoder(tmp_path / "ear", model)
    again = autoencoders.load_autoencoder(tmp_path / "ear")
    assert again.config == EAR and autoencoders.fingerprint(again) == autoencoders.fingerprint(model)


def test_other_files_are_refused(tmp_path):
    torch.save({"weights": Path("/")}, tmp_path / "pickle.pyt")
    with pytest.raises(CheckpointError, match=r"pickle.pyt: expected the tensors of an ear-VAE; got .*download"):
        autoencoders.read_ear_vae(tmp_path / "pickle.pyt", EAR)
    torch.save({"state_dict": {"encoder.layers.0.bias": torch.zeros(3)}}, tmp_path / "other.pyt")
    with pytest.raises(CheckpointError, match=r"other.pyt: .*[Mm]issing key"):
        autoencoders.read_ear_vae(tmp_path / "other.pyt", EAR)
    with pytest.raises(CheckpointError, match=r"none.pyt: expected the tensors"):
        autoencoders.read_ear_vae(tmp_path / "none.pyt", EAR)


def test_layers_of_the_ear_vae_compute_what_they_say():
    """Weight norm as torch's own, Snake by its formula, and a Transformer that is nothing until it is trained."""
    torch.manual_seed(0)
    x = noise(2, 4, 50, scale=1.0)
    for ours, theirs in (
        (Convolution(4, 6, 8, 4), torch.nn.Conv1d(4, 6, 8, 4, 2)),
        (Convolution(4, 6, 8, 4, transposed=True), torch.nn.ConvTranspose1d(4, 6, 8, 4, 2)),
    ):
        theirs = torch.nn.utils.parametrizations.weight_norm(theirs)
        ours.weight_g.data.uniform_(0.5, 2)
        theirs.load_state_dict(ours.state_dict())
        torch.testing.assert_close(ours(x), theirs(x))
    snake = Snake(4)
    snake.alpha.data.fill_(0.3)
    snake.beta.data.fill_(-0.2)
    torch.testing.assert_close(snake(x), x + torch.sin(math.exp(0.3) * x) ** 2 / math.exp(-0.2))
    transformer = LatentTransformer(EarConfig(), 64)
    latents = noise(1, 9, 64)
    assert torch.equal(transformer(latents), latents)


def test_the_transformer_attends_with_rotary_positions():
    """One trained block against the same sums written out: half-split rotation, heads of 32, softmax over all frames."""
    torch.manual_seed(0)
    transformer = LatentTransformer(EarConfig(transformer_blocks=1), 64)
    block = transformer.layers[0]
    torch.nn.init.normal_(block.self_attn.to_out.weight, std=0.1)
    latents = noise(1, 7, 64, scale=1.0)
    normal = (latents - latents.mean(-1, keepdim=True)) / (latents.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    q, k, v = (normal @ block.self_attn.to_qkv.weight.T)[0].split(64, dim=-1)
    angle = torch.arange(7.0)[:, None] * 10_000 ** (-torch.arange(0, 32, 2) / 32)
    turn = torch.polar(torch.ones_like(angle), angle)
    heads = []
    for head in range(2):
        part = slice(32 * head, 32 * head + 32)
        a, b = (torch.complex(*x[:, part].split(16, dim=-1)) * turn for x in (q, k))
        heads.append(((a @ b.conj().T).real / 32**0.5).softmax(-1) @ v[:, part])
    expected = latents[0] + torch.cat(heads, -1) @ block.self_attn.to_out.weight.T
    torch.testing.assert_close(transformer(latents)[0], expected, rtol=0, atol=1e-5)


def test_the_autoencoder_that_ships_hears_real_music(real_song):
    """A song it never saw comes back nearer than white noise of its level and than its own mean spectrum."""
    model = autoencoders.load_autoencoder(find("tiny"))
    vocals, accompaniment, rate = real_song
    for wave in (vocals, accompaniment, vocals + accompaniment):
        wave = torch.from_numpy(soxr.resample(wave, rate, model.sample_rate))[None]
        back = model.decode(model.encode(wave[None]))[0, :, : wave.shape[1]]
        hiss = noise(*wave.shape, scale=1.0) * wave.square().mean().sqrt()
        found, hissing = (mel_distance(other, wave, model.sample_rate) for other in (back, hiss))
        assert found < 0.5 * hissing and found < mean_spectrum_distance(wave, model.sample_rate)


def test_wrong_input_is_named():
    model = build(SMALL)
    with pytest.raises(ValueError, match=r"expected waves \(B, 1, S\); got \(1, 2, 480\); mix or repeat channels to 1"):
        model.encode(torch.zeros(1, 2, 480))
    with pytest.raises(ValueError, match=r"expected latents \(B, T, 32\); got \(1, 0, 32\)"):
        model.decode(torch.zeros(1, 0, 32))
    with pytest.raises(ValueError, match=r"expected hop_length a multiple of stft_hop_length.*; got 480, 200"):
        SpectralConfig(stft_hop_length=200)
    with pytest.raises(ValueError, match="expected as many multiples as strides"):
        EarConfig(strides=[2, 4])
    with pytest.raises(ValueError, match=r"expected latent_dim a multiple of ear.head_dim 32; got 40"):
        AutoencoderConfig("ear", latent_dim=40)
