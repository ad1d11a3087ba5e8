"""The page as a file: what it holds is what was decoded, nothing in it comes from elsewhere, and names stay text."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from make_page import EVIL_SHOWN, EXCERPT_S, QUICK, START_S, listen

import duotok
from duotok import DuoTok
from duotok.corpus.reader import MixturePolicy
from duotok.decoder import Sampling
from duotok.evaluation.decoding import distances
from duotok.listen.excerpt import find_song, read_excerpt
from duotok.listen.page import Labels, make_page
from duotok.listen.pictures import BANDS, chromagrams, spectrograms

RATE = 24_000


@pytest.fixture(scope="module")
def text(page) -> str:
    return page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def data(text) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def wave_of(sound: dict) -> np.ndarray:
    wave, rate = soundfile.read(io.BytesIO(base64.b64decode(sound["audio"])), dtype="float32")
    assert rate == RATE
    return wave


def test_sounds_codes_and_scores_are_those_of_the_song(data, songs, decoding):
    tokenizer = duotok.load(decoding)
    excerpt = read_excerpt(tokenizer, find_song(str(songs / "A Song")), MixturePolicy(), EXCERPT_S)
    decoded = tokenizer.decode(excerpt.codes, steps=1, guidance=1.0)
    assert data["codes"] == excerpt.codes.tolist() and data["codebookSize"] == 32_768 and data["seconds"] == EXCERPT_S
    originals = (excerpt.stems.sum(0), *excerpt.stems)
    expected = [wave for pair in zip(originals, (wave[0, 0] for wave in decoded), strict=True) for wave in pair]
    gain = 1 / max(1.0, *(wave.abs().max().item() for wave in expected))
    names = [(name, kind) for name in ("Mix", "Vocals", "Accompaniment") for kind in ("Original", "Decoded")]
    assert [(sound["name"], sound["kind"]) for sound in data["sounds"]] == names
    for i, sound in enumerate(data["sounds"]):
        found = wave_of(sound)
        assert len(found) == EXCERPT_S * RATE
        alike = [np.corrcoef(found, gain * wave.numpy())[0, 1] for wave in expected]
        assert np.argmax(alike) == i and alike[i] > 0.9, sound
    waves = torch.stack([decoded.vocals[0], decoded.accompaniment[0]])
    assert data["scores"]["decoded"] == pytest.approx(distances(tokenizer.decoder, waves, excerpt.stems[:, None]), rel=1e-4)
    assert set(data["scores"]) == {"decoded", "other", "autoencoder", "mean_spectrum", "noise"}


def test_the_policy_allows_the_style_and_the_script_alone(text):
    policy = html.unescape(re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1])
    for tag in ("style", "script"):
        [inside] = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert not re.search(r"(?:https?|wss?|ftp):|@import|url\(|fetch\(|XMLHttpRequest|WebSocket|sendBeacon", text)
    assert re.findall(r"(?:src|href)=\"[^\"]*", text) == ['href="data:,']


def test_names_stay_text(text):
    assert text.count("</script>") == 2 and text.count("<script") == 2 and "<img" not in text and "<b>" not in text
    assert f"<title>{html.escape(EVIL_SHOWN)} · duotok</title>" in text
    assert html.escape("<b>Someone</b>") in text and "\u202e" not in text
    assert "untrained: its codes mean nothing" in text and "0.75 kbit/s: 2 tracks, 25 codes a second of 15 bits" in text
    assert f"{EXCERPT_S} seconds, from 0:0{START_S} of 0:06" in text


def test_the_same_song_gives_the_same_page_whatever_its_name(songs, decoding):
    tokenizer = duotok.load(decoding)
    excerpt = read_excerpt(tokenizer, find_song(str(songs / "A Song")), MixturePolicy(), 1)
    names = "one", "\udce9\x00 $two <\n\u2028"
    one, other = (make_page(tokenizer, excerpt, Sampling(1, 1.0), Labels(name)) for name in names)
    assert other.encode().decode().replace("$two &lt;", "one") == one


def test_a_rate_that_mp3_lacks_is_refused(songs, decoding):
    tokenizer = duotok.load(decoding)
    excerpt = read_excerpt(tokenizer, find_song(str(songs / "A Song")), MixturePolicy(), 1)
    tokenizer.decoder.autoencoder.sample_rate = 25_000
    longer = replace(excerpt, stems=torch.nn.functional.pad(excerpt.stems, (0, 1000)))
    with pytest.raises(ValueError, match="expected a sample rate that MP3 has; got 25000 Hz"):
        make_page(tokenizer, longer, Sampling(1, 1.0), Labels("name"))


def test_pictures_show_pitch_level_and_silence():
    t = torch.arange(2 * RATE) / RATE
    tone = 0.5 * torch.sin(2 * torch.pi * 440 * t)
    waves = torch.stack((tone, 0.01 * tone, 0 * tone))
    mel, pitches = spectrograms(waves, RATE), chromagrams(waves, RATE)
    assert mel.shape[:2] == (3, BANDS) and pitches.shape[:2] == (3, 12)
    inner = slice(5, -5)  # off the ends
    assert (mel[0, :, inner].amax(0) > 250).all() and not mel[2].any() and not pitches[2].any()
    assert abs(mel[0, :, inner].amax().item() - mel[1, :, inner].amax().item() - 40 / 80 * 255) < 3
    assert (pitches[0, :, inner].argmax(0) == 9).all() and (pitches[0, 9, inner] == 255).all()  # A
    assert mel[0, :, inner].float().mean(1).argmax() < BANDS // 4


def test_the_command_says_where_the_page_is_and_how_large(songs, decoding, tmp_path):
    out = tmp_path / "new" / "page.html"
    done = listen(songs / "A Song_accomp.wav", "-o", out, "--tokenizer", decoding, *QUICK, "--seconds", 1, "--start", 2)
    assert done.exit_code == 0, done.output
    assert f"{out}: {out.stat().st_size / 1e6:.2f} MB, 1 s from second 2 of A Song" in done.stdout
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]
    assert '<h1><bdi id="title">A Song</bdi></h1>' in out.read_text(encoding="utf-8")


def test_every_mistake_is_one_line_and_leaves_no_file(songs, decoding, tmp_path):
    bare = tmp_path / "bare"
    DuoTok.from_config("tiny/tokenizer").save(bare)
    lone = tmp_path / "lone_vocals.wav"
    lone.write_bytes((songs / "A Song_vocals.wav").read_bytes())
    song, good = songs / "A Song", ("--tokenizer", decoding)
    for arguments, message in [
        ((song, "--tokenizer", bare), "expected decoder weights in a sub-folder decoder; got none"),
        ((song, *good, "--start", 60), "start: expected a second before the song's end at 6.0 s; got 60"),
        ((songs / "two.jsonl", *good), "expected one song; got 2"),
        ((lone, *good), "expected both stems; got vocals alone"),
        ((song, *good, "--track", "drums"), "--track: expected one of vocals, accompaniment; got 'drums'"),
        ((song, *good, "-o", songs), "--out: expected an .html file; got the folder"),
        ((song, *good, "-o", tmp_path / "page.txt"), "--out: expected an .html file; got"),
    ]:
        out = tmp_path / "out" / "page.html"
        done = listen(*arguments[:1], "-o", out, *arguments[1:], *QUICK)
        assert isinstance(done.exception, ValueError) and message in str(done.exception), done.output
        assert "\n" not in str(done.exception) and not (out.parent.exists() and [*out.parent.iterdir()])
