"""Checkpoints: what is saved is what is loaded, and everything else is refused in one line."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import duotok
from duotok import storage
from duotok.files import WriteError, write_atomically
from duotok.storage import CheckpointError


@pytest.fixture
def folder(tokenizer, tmp_path) -> Path:
    tokenizer.save(tmp_path / "saved")
    return tmp_path / "saved"


def test_save_and_load_give_the_same_tokenizer(tokenizer, folder, real_song):
    again = duotok.load(folder)
    assert again.fingerprint == tokenizer.fingerprint and again.config == tokenizer.config
    assert torch.equal(again.encode(*real_song).tensor, tokenizer.encode(*real_song).tensor)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["autoencoder", "config.yaml", "decoder", "fingerprint.txt", "model.safetensors"]
    )


def test_a_folder_is_never_taken_for_the_package_s_tokenizer(tokenizer, tmp_path, monkeypatch, caplog):
    own = duotok.DuoTok.from_config("tiny/tokenizer", seed=5)
    own.save(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    for name in ("./tiny", "tiny/", tmp_path / "tiny"):
        assert duotok.load(name).fingerprint == own.fingerprint
    assert not caplog.records
    assert duotok.load("tiny").fingerprint == tokenizer.fingerprint
    assert "the folder of that name is ./tiny" in caplog.text
    monkeypatch.chdir(tmp_path.parent)
    with pytest.raises(CheckpointError, match=r"a hub id owner/name; got './tiny'"):
        duotok.load("./tiny")
    with pytest.raises(TypeError, match=r"expected options out of cache_dir, .*; got dtype; leave it out"):
        duotok.load("tiny", dtype="float16")


def test_the_hub_mixin_saves_loads_and_pushes(tokenizer, tmp_path, monkeypatch):
    tokenizer.save_pretrained(tmp_path / "hub")
    assert duotok.DuoTok.from_pretrained(tmp_path / "hub").fingerprint == tokenizer.fingerprint
    assert not (tmp_path / "hub" / "config.json").exists()
    pushed = {}

    class Api:
        def __init__(self, **options):
            pass

        def create_repo(self, repo_id, **options):
            return type("Repo", (), {"repo_id": repo_id})

        def upload_folder(self, repo_id, folder_path, **options):
            pushed.update(repo_id=repo_id, files={p.name for p in Path(folder_path).iterdir()})

    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", Api)
    tokenizer.push_to_hub("someone/tokenizer")
    assert pushed["repo_id"] == "someone/tokenizer"
    assert pushed["files"] >= {"config.yaml", "fingerprint.txt", "model.safetensors"}


def test_a_hub_id_is_fetched_without_pickles(tokenizer, folder, monkeypatch):
    asked = {}

    def fetch(repo_id, **options):
        asked.update(repo_id=repo_id, **options)
        return str(folder)

    monkeypatch.setattr(storage, "snapshot_download", fetch)
    assert duotok.load("someone/tokenizer", revision="v1").fingerprint == tokenizer.fingerprint
    assert asked["revision"] == "v1"
    files = {"config.yaml", "fingerprint.txt", "model.safetensors"}
    assert set(asked["allow_patterns"]) == {f"{part}{name}" for part in ("", "decoder/", "autoencoder/") for name in files}


def test_a_missing_hub_id_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match=r"checkpoint 'no/such': expected a tokenizer on the hub; got .*; check the name"):
        duotok.load("no/such", cache_dir=tmp_path, local_files_only=True)


@pytest.mark.parametrize("name", ["nothing", "", "../x/y", "a/b/c"])
def test_an_unknown_name_says_what_there_is(name):
    with pytest.raises(CheckpointError, match="expected tiny, a folder, or a hub id owner/name; got"):
        duotok.load(name)


def test_pickle_is_never_read(folder):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    weights = folder / "model.safetensors"
    weights.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError, match=r"expected the weights that config.yaml describes"):
        duotok.load(folder)
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"expected a file model.safetensors; got none"):
        duotok.load(folder)


@pytest.mark.parametrize("name", ["config.yaml", "fingerprint.txt", "model.safetensors"])
def test_missing_files_are_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"expected a file {name}; got none"):
        duotok.load(folder)


@pytest.mark.parametrize("text", ["format_version: 2\n", "format_version: [", "- 1\n", ""])
def test_another_version_is_refused_before_anything_else(folder, text):
    (folder / "config.yaml").write_text(text)
    with pytest.raises(CheckpointError, match="expected format_version 1; got"):
        duotok.load(folder)


def test_an_unknown_key_in_a_checkpoint_is_named(folder):
    data = yaml.safe_load((folder / "config.yaml").read_text())
    data["model"]["trunk"]["colour"] = 1
    (folder / "config.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(ValueError, match=r"model.trunk.colour: expected one of front_blocks"):
        duotok.load(folder)


def test_changed_weights_or_windows_fail_the_fingerprint(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    state = load_file(folder / "model.safetensors")
    state["trunk.norm.bias"][0] += 1e-3
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"expected fingerprint .*; got .*changed or damaged"):
        duotok.load(folder)
    text = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(text.replace("batch_size: 1", "batch_size: 2"))
    with pytest.raises(CheckpointError, match="expected fingerprint"):
        duotok.load(other)


def test_truncated_and_foreign_weights_are_refused(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"model.safetensors: expected the weights"):
        duotok.load(folder)
    save_file({"something": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="expected the weights"):
        duotok.load(folder)


def test_a_failed_write_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(WriteError, match=r"file: expected to write 3 bytes; got No space left on device; free space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_loading_does_not_disturb_random_state():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    duotok.DuoTok.from_config("tiny/tokenizer")
    assert torch.equal(torch.get_rng_state(), before)
