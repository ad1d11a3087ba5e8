"""Decoding: the same waves always, windows that leave no trace, flat memory, and every mistake in one line."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from make_decoder import decoding_tokenizer, random_codes, toy_autoencoder, toy_decoder

import duotok
from duotok import DuoTok
from duotok.autoencoder import decode_pieces, encode_wave, load_autoencoder, save_autoencoder
from duotok.codes import Codes
from duotok.decoder import Sampling, codes_of_latents, num_latents
from duotok.storage import CheckpointError

FEW = Sampling(steps=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("decoding")
    decoding_tokenizer(folder)
    return folder


@pytest.fixture
def tok(folder) -> DuoTok:
    return duotok.load(folder)


@pytest.fixture(scope="module")
def slot():
    return DuoTok.from_config("tiny/tokenizer").model.trunk.bottleneck


def waves(decoder, slot, codes, sampling=FEW, **options):
    return torch.cat(list(decoder.waves(slot, codes, sampling, **options)), dim=-1)


def test_the_same_codes_and_seed_give_the_same_wave(tok, folder):
    codes = random_codes(70)
    mix, vocals, accompaniment = tok.decode(codes, steps=3)
    assert mix.shape == vocals.shape == (1, 1, 70 * 960) and tok.decoder.sample_rate == 24_000
    assert torch.equal(mix, vocals + accompaniment) and vocals.std() > 1e-3
    assert torch.equal(duotok.load(folder).decode(codes, steps=3).mix, mix)
    assert torch.equal(tok.decode(codes.numpy(), steps=3).mix, mix)
    for other in ({"seed": 1}, {"steps": 4}, {"guidance": 3.0}, {"sampler": "ddim", "steps": 4}):
        assert not torch.equal(tok.decode(codes, **{"steps": 3, **other}).mix, mix)
    assert not torch.equal(tok.decode(random_codes(70, seed=1), steps=3).mix, mix)


def test_batches_hold_what_songs_give_alone(tok):
    codes = torch.full((2, 2, 60), -1)
    codes[0], codes[1, :, :40] = random_codes(60), random_codes(40, seed=1)
    batch = tok.decode(Codes(codes, torch.tensor([60, 40]), 25, tok.fingerprint), steps=2)
    for i, length in enumerate((60, 40)):
        alone = tok.decode(codes[i, :, :length], steps=2)
        for track, single in zip(batch, alone, strict=True):
            assert torch.equal(track[i, :, : length * 960], single[0]) and not track[i, :, length * 960 :].any()
    pair = tok.decode([codes[1, 0, :40], codes[1, 1, :40].to(torch.int32)], steps=2)
    assert torch.equal(pair.mix, alone.mix)


@pytest.mark.parametrize("joint", [False, True])
def test_a_track_alone_is_the_same_as_beside_the_other(slot, joint):
    decoder = toy_decoder(DuoTok.from_config("tiny/tokenizer"), joint=joint, latent_dim=4)
    codes = random_codes(90)
    both = waves(decoder, slot, codes)
    assert both.shape == (2, 1, 90 * 960)
    for track in range(2):
        assert torch.equal(waves(decoder, slot, codes, tracks=(track,))[0], both[track])
    changed = codes.clone()
    changed[1] = random_codes(90, seed=1)[1]
    assert torch.equal(waves(decoder, slot, changed)[0], both[0]) != joint  # joint tracks hear each other


@pytest.mark.parametrize("window", [(40, 10), (50, 25), (64, 0)])
def test_windows_do_not_matter_to_a_network_that_looks_at_one_frame(slot, window):
    """Without attention every frame stands for itself, so any windows must give what one window gives."""
    tokenizer, codes = DuoTok.from_config("tiny/tokenizer"), random_codes(81)
    whole = waves(toy_decoder(tokenizer, window=(400, 0), depth=0), slot, codes, tracks=(1,))
    pieces = waves(toy_decoder(tokenizer, window=window, depth=0), slot, codes, tracks=(1,))
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-4)


def test_a_window_starts_where_the_one_before_left_off(slot):
    """Two windows disagree about the frames that they share, unless what the first estimated is faded into the second."""
    decoder, codes = toy_decoder(DuoTok.from_config("tiny/tokenizer"), depth=2), random_codes(90)
    conditions = [decoder._condition(slot, codes, (0,), first, first + 100) for first in (0, 80)]
    before, estimates = decoder._window(conditions[0], (0,), 0, [], FEW)
    shared = [estimate[:, 80:] for estimate in estimates]
    apart = {}
    for name, given in (("alone", []), ("faded", shared)):
        latents, _ = decoder._window(conditions[1], (0,), 80, given, FEW)
        apart[name] = (latents[0, :20] - before[0, 80:]).norm(dim=1)
    assert apart["faded"][0] < 0.2 * apart["alone"][0]
    assert apart["faded"][:5].mean() < 0.5 * apart["faded"][-5:].mean()


def test_borders_of_windows_do_not_click(slot):
    """The derivative's energy at borders lies within its distribution over the song."""
    decoder = toy_decoder(DuoTok.from_config("tiny/tokenizer"))
    wave = waves(decoder, slot, random_codes(400), Sampling(steps=2), tracks=(0,))[0, 0]
    energy = wave.diff().square()[: len(wave) // 240 * 240 - 240].unflatten(0, (-1, 240)).sum(1)  # blocks of 10 ms
    borders = torch.arange(1, 10) * 80 * 2
    at_borders = torch.cat([energy[borders - 1], energy[borders]])
    assert at_borders.max() <= energy.quantile(0.995) and at_borders.mean() < 1.3 * energy.mean()


def test_the_autoencoder_in_pieces_gives_what_the_whole_gives(monkeypatch):
    autoencoder = toy_autoencoder(channels=2)
    latents = torch.randn(2, 100, 4, generator=torch.Generator().manual_seed(0))
    whole = autoencoder.decode(latents)
    for sizes in ([100], [50, 1, 1, 40, 8], [3] * 33 + [1]):
        torch.testing.assert_close(torch.cat(list(decode_pieces(autoencoder, latents.split(sizes, dim=1))), -1), whole)
    monkeypatch.setattr("duotok.autoencoder._PIECE", 50)
    wave = 0.1 * torch.randn(2, 480 * 133 + 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(encode_wave(autoencoder, wave), autoencoder.encode(wave[None])[0], rtol=1e-4, atol=1e-4)


def test_codes_are_stretched_to_the_nearest_latent():
    autoencoder = toy_autoencoder()
    assert codes_of_latents(3, 8, 25, autoencoder).tolist() == [1, 2, 2, 3, 3]
    assert num_latents(7, 25, autoencoder) == 14

    class Public:  # the public ear-VAE's rate
        sample_rate, hop_length = 44_100, 1024

    middles = [(i + 0.5) * 1024 / 44_100 for i in range(100)]
    assert codes_of_latents(0, 100, 25, Public).tolist() == [int(seconds * 25) for seconds in middles]
    assert num_latents(25, 25, Public) == 44


def test_ten_minutes_need_no_more_memory_than_one(folder):
    code = f"""
import resource, torch
from dataclasses import replace
from duotok.tokenizer import load
from duotok.decoder import Sampling
torch.set_num_threads(1)
tok = load({str(folder)!r})
tok.decoder.config = replace(tok.decoder.config, window_frames=500, overlap_frames=100)
tok.decoder.autoencoder.decode = lambda latents: latents[..., :1].transpose(1, 2).repeat_interleave(480, -1)
def peak(minutes):
    codes = torch.randint(0, 32768, (2, minutes * 1500))
    samples = sum(b.shape[-1] for b in tok.decoder.waves(tok.model.trunk.bottleneck, codes, Sampling(steps=1, guidance=1)))
    assert samples == minutes * 60 * 24000
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
one = peak(1)
print(peak(10) - one)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 30  # MB; the waves alone are 115


def test_save_and_load_carry_the_decoder_and_leave_the_fingerprint(tok, tmp_path):
    assert tok.fingerprint == DuoTok.from_config("tiny/tokenizer").fingerprint and tok.can_decode
    tok.save(tmp_path)
    parts = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    three = ("config.yaml", "fingerprint.txt", "model.safetensors")
    assert parts == {f"{part}{name}" for part in ("", "decoder/", "autoencoder/") for name in three}
    again = duotok.load(tmp_path)
    assert again.fingerprint == tok.fingerprint and again.decoder.fingerprint == tok.decoder.fingerprint
    codes = random_codes(30)
    assert torch.equal(again.decode(codes, steps=2).mix, tok.decode(codes, steps=2).mix)


def test_an_autoencoder_is_the_same_after_saving(tmp_path):
    made = toy_autoencoder()
    save_autoencoder(tmp_path, made)
    first = load_autoencoder(tmp_path)
    wave = 0.1 * torch.randn(1, 1, 9600)
    torch.testing.assert_close(first.encode(wave), made.encode(wave), rtol=0.05, atol=0.05)  # float16 on disk
    save_autoencoder(tmp_path / "again", first)
    assert torch.equal(load_autoencoder(tmp_path / "again").encode(wave), first.encode(wave))


def test_codes_may_be_the_arrays_of_a_token_file(tok):
    codes = random_codes(8)
    expected = tok.decode(codes, steps=1).mix
    for same in (codes.numpy().astype("uint16"), list(codes.numpy().astype("uint16")), [track.tolist() for track in codes]):
        assert torch.equal(tok.decode(same, steps=1).mix, expected)


def test_mistakes_are_one_line(tok, tmp_path):
    def refuse(codes, message, kind=ValueError, tokenizer=tok):
        with pytest.raises(kind, match=message) as caught:
            tokenizer.decode(codes, steps=1)
        assert "\n" not in str(caught.value)

    refuse(torch.full((2, 5), 32_768), r"decode: expected codes from 0 to 32767; got 32768; pass this tokenizer's codes")
    refuse(torch.full((2, 5), -1), r"expected codes from 0 to 32767; got -1")
    refuse([torch.zeros(4).long(), torch.zeros(5).long()], r"expected tracks of one length, not empty; got 4 and 5 codes")
    refuse(torch.zeros(2, 0).long(), "not empty; got 0 and 0 codes")
    refuse(torch.zeros(2, 5), r"expected codes \(2, T\) of whole numbers, vocals first; got \(5,\) torch.float32")
    refuse(torch.zeros(3, 5).long(), r"expected codes \(2, T\) .*; got 3 tracks; .*decode songs one by one")
    refuse(torch.zeros(0, 2, 5).long(), "expected the codes of at least one song; got none")
    foreign = Codes(torch.zeros(1, 2, 5).long(), torch.tensor([5]), 25, "0" * 64)
    refuse(foreign, r"expected codes of this tokenizer, \w{16}; got those of another, 0{16}")
    bare = DuoTok.from_config("tiny/tokenizer")
    missing = r"expected decoder weights in a sub-folder decoder; got none; train stage 4 with --export"
    refuse(random_codes(5), f"tokenizer: {missing}", CheckpointError, bare)
    bare.save(tmp_path / "bare")
    refuse(random_codes(5), missing, CheckpointError, duotok.load(tmp_path / "bare"))


def test_decoders_of_others_and_damaged_ones_are_refused(folder, tmp_path):
    other = DuoTok.from_config("tiny/tokenizer", seed=5)
    other.save(tmp_path / "other")
    for part in ("decoder", "autoencoder"):
        shutil.copytree(folder / part, tmp_path / "other" / part)
    with pytest.raises(
        CheckpointError, match=r"decoder: expected the tokenizer it was trained with, \w{16}; got \w{16}; train"
    ):
        duotok.load(tmp_path / "other").decode(random_codes(5))
    changed = shutil.copytree(folder, tmp_path / "changed")
    save_autoencoder(changed / "autoencoder", toy_autoencoder(seed=9))
    with pytest.raises(CheckpointError, match="expected the autoencoder it was trained with"):
        duotok.load(changed).decode(random_codes(5))
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    weights = damaged / "decoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"decoder/model.safetensors: expected the weights that config.yaml describes"):
        duotok.load(damaged).decode(random_codes(5))
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"decoder: expected a file model.safetensors; got none"):
        duotok.load(damaged).decode(random_codes(5))
