"""The command line: help with examples, exit codes, and every mistake in one line."""

from __future__ import annotations

import subprocess
import sys

import pytest

COMMANDS = ("tokenize", "decode", "sample", "listen", "verify", "info", "example", "train", "export")


def duotok(*arguments: object, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "duotok", *map(str, arguments)], capture_output=True, text=True, **options)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command):
    done = duotok(command, "--help")
    assert done.returncode == 0 and "Example: duotok " in done.stdout and f"duotok {command}" in done.stdout


def test_info_explains_every_backend_and_the_checkpoint_s_state():
    done = duotok("info")
    assert done.returncode == 0
    for op in ("log_mel", "chroma", "attention", "replace_noise", "nearest_code", "simvq_loss", "modulate"):
        assert f"{op} " in done.stdout
    assert "checkpoint tiny: trained; fingerprint " in done.stdout and "; decodes" in done.stdout
    assert "native library:" in done.stdout and "decoders: soundfile" in done.stdout and "separators:" in done.stdout
    assert done.stdout.count("reference") >= 7


def test_first_command_of_the_readme_on_the_real_song(tmp_path, stem_file):
    found = duotok("example")
    assert found.stdout.strip() == str(stem_file)
    done = duotok("tokenize", found.stdout.strip(), "-o", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "1 song," in done.stdout and "306 codes" in done.stdout and "0 refused" in done.stdout
    assert "untrained" not in done.stderr and "x real time" in done.stderr
    checked = duotok("verify", tmp_path / "run")
    assert checked.returncode == 0 and "0 problems" in checked.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.wav", "-o", "run"], "none.wav: expected an audio file, a folder or a .jsonl manifest; got nothing there"),
        (["SONG", "-o", "run", "--tokenizer", "nope"], "expected tiny, a folder, or a hub id owner/name; got 'nope'"),
        (["SONG", "-o", "run", "--track", "drums"], "--track: expected one of vocals, accompaniment; got 'drums'"),
        (["SONG", "-o", "run", "--device", "warp"], "device: expected cpu or a device of this machine; got 'warp'"),
        (["SONG", "-o", "MIX"], "--out: expected a folder; got the file"),
        (["SONG", "-o", "run", "--separate", "magic"], "--separate: expected one of demucs, spleeter, none; got 'magic'"),
        (["MIX", "-o", "run", "--separator-weights", "w"], "w: expected safetensors of htdemucs"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(tmp_path, stem_file, arguments, message):
    mix = tmp_path / "mix.wav"
    mix.write_bytes(b"RIFF")
    places = {"SONG": stem_file, "MIX": mix}
    done = duotok("tokenize", *(places.get(a, a) for a in arguments), cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert len(lines) == 1 and message in lines[0]
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_tokenizer_is_refused(tmp_path, stem_file):
    import duotok as package

    package.DuoTok.from_config("tiny/tokenizer", seed=5).save(tmp_path / "other")
    assert duotok("tokenize", stem_file, "-o", tmp_path / "run").returncode == 0
    done = duotok("tokenize", stem_file, "-o", tmp_path / "run", "--tokenizer", tmp_path / "other")
    assert done.returncode == 2 and "got a run with fingerprint" in done.stderr


def test_verify_of_no_run_is_one_line(tmp_path):
    done = duotok("verify", tmp_path)
    assert done.returncode == 2 and "expected a run, with plan.json" in done.stderr and "Traceback" not in done.stderr


def test_debug_shows_the_traceback(tmp_path):
    import os

    done = duotok("verify", tmp_path, env={**os.environ, "DUOTOK_DEBUG": "1"})
    assert "Traceback" in done.stderr


def test_a_missing_extra_is_named_in_one_line():
    code = "import sys; sys.modules['accelerate'] = None; from duotok.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "train", "tiny/stage1", "-o", "x"], capture_output=True, text=True)
    expected = "error: expected the package accelerate; it is not installed; install the extra: pip install 'duotok[train]'\n"
    assert (done.returncode, done.stderr) == (2, expected)
