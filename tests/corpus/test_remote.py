"""Songs, manifests and results at addresses: in fsspec's own memory filesystem, and in a bucket of a server that speaks S3."""

from __future__ import annotations

import http.server
import json
import os
import threading
from pathlib import Path

import fsspec
import pytest
from runs import command, failures, finish, outputs, plan, write_songs

from duotok.corpus.remote import fetched, publish, size
from duotok.corpus.setup import Setup, read_setup
from duotok.corpus.songs import PlanError, Song, collect
from duotok.files import WriteError
from duotok.integrity import AudioError


@pytest.fixture(scope="module")
def songs(tmp_path_factory) -> Path:
    return write_songs(tmp_path_factory.mktemp("songs"), (1.0, 2.0))


@pytest.fixture
def memory(songs):
    """The songs, and a manifest of them with relative paths, at memory://store/songs."""
    system = fsspec.filesystem("memory")
    for path in songs.iterdir():
        system.pipe_file(f"/store/songs/{path.name}", path.read_bytes())
    rows = [
        {"id": "pair", "vocal_path": "000_vocals.wav", "accompaniment_path": "memory://store/songs/000_accompaniment.wav"},
        {"id": "gone", "mixture_path": "gone.wav"},
    ]
    system.pipe_file("/store/songs/list.jsonl", "\n".join(map(json.dumps, rows)).encode())
    yield system
    system.rm("/store", recursive=True)


@pytest.fixture
def s3():
    """A server on this machine that speaks S3, with a bucket `store`; the variables with which other processes reach it."""
    server = pytest.importorskip("moto.server", reason="needs the package moto[s3,server]")
    s3fs = pytest.importorskip("s3fs", reason="needs the package s3fs")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    url = f"http://{host}:{port}"
    system = s3fs.S3FileSystem(key="none", secret="none", endpoint_url=url, skip_instance_cache=True)
    system.mkdir("store")
    yield system, {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_ENDPOINT_URL": url}
    running.stop()


def test_a_folder_at_an_address_is_that_of_this_machine(songs, memory):
    here, there = collect([songs]), collect(["memory://store/songs"])
    assert [(s.id, s.source) for s in there] == [(s.id, s.source) for s in here]
    assert there[0].accompaniment_path == "memory://store/songs/000_accompaniment.wav"


def test_songs_are_fetched_and_give_the_same_tokens(songs, memory, tmp_path):
    finish(tmp_path / "here", plan(songs, tmp_path / "here"))
    finish(tmp_path / "there", plan("memory://store/songs", tmp_path / "there"))
    names = [name for name in outputs(tmp_path / "here") if name.startswith("data")]
    assert names and all(outputs(tmp_path / "here")[name] == outputs(tmp_path / "there")[name] for name in names)
    refused = failures(tmp_path / "there")["page.mp3"]
    assert refused["message"].startswith("memory://store/songs/page.mp3: expected audio") and refused["bytes"] > 0


def test_a_manifest_at_an_address_and_a_file_that_is_gone(memory, tmp_path):
    finish(tmp_path, plan("memory://store/songs/list.jsonl", tmp_path))
    assert {f["id"]: f["reason"] for f in failures(tmp_path).values()} == {"gone": "missing"}
    [path] = (tmp_path / "data").iterdir()
    assert path.stat().st_size


def test_finished_files_are_published(songs, memory, tmp_path):
    finish(tmp_path, plan(songs, tmp_path, publish="memory://store/run"))
    for name in ("data/unit-00000.parquet", "failed/unit-00001.jsonl", "done/00001.json"):
        assert memory.cat_file(f"/store/run/{name}") == (tmp_path / name).read_bytes()


def test_a_store_that_cannot_be_written_to_leaves_the_unit_undone(songs, tmp_path):
    (tmp_path / "file").write_text("")
    setup = plan(songs, tmp_path / "run", publish=f"file://{tmp_path}/file/run")
    with pytest.raises(WriteError, match=r"expected to copy unit-00000.parquet; got .*; make the place reachable"):
        finish(tmp_path / "run", setup)
    assert not list(tmp_path.glob("run/done/*")) and list((tmp_path / "run" / "journal").iterdir())
    finish(tmp_path / "run", Setup(**{**vars(setup), "publish": f"file://{tmp_path}/copy"}))
    assert (tmp_path / "copy/data/unit-00000.parquet").read_bytes() == (tmp_path / "run/data/unit-00000.parquet").read_bytes()


def test_what_was_finished_before_it_was_to_be_published_is_published(songs, contents, tmp_path, monkeypatch):
    """Units that were done elsewhere or nowhere published, copies that are of another time, and a folder named from here."""
    monkeypatch.chdir(tmp_path)
    plan(songs, tmp_path / "run", songs_per_unit=1)
    finish(tmp_path / "run", read_setup(tmp_path / "run"))
    plan(songs, tmp_path / "run", songs_per_unit=1, publish="copy")
    (tmp_path / "copy" / "done").mkdir(parents=True)
    (tmp_path / "copy" / "done" / "00001.json").write_text("{}")
    monkeypatch.chdir("/")
    finish(tmp_path / "run", read_setup(tmp_path / "run"), workers=1)
    there = {name: data for name, data in contents(tmp_path / "run").items() if name.startswith(("data", "failed", "done"))}
    assert len(there) == 8 and contents(tmp_path / "copy") == there


def test_a_unit_is_published_before_it_is_done_and_loses_its_copy_with_its_rows(contents, tmp_path):
    """A note that cannot be copied leaves its unit to be done again; where no song is left, none is published."""
    folder, copy = write_songs(tmp_path / "songs", (1.0,)), tmp_path / "copy"
    setup = plan(folder, tmp_path / "run", publish=str(copy))
    (copy / "done").parent.mkdir()
    (copy / "done").write_text("in the way")
    with pytest.raises(WriteError, match=r"expected to copy 00000.json; got .*; make the place reachable"):
        finish(tmp_path / "run", setup)
    assert (copy / "data" / "unit-00000.parquet").exists() and not list(tmp_path.glob("run/done/*"))
    (copy / "done").unlink()
    finish(tmp_path / "run", setup)
    assert (copy / "done" / "00000.json").read_bytes() == (tmp_path / "run" / "done" / "00000.json").read_bytes()
    (folder / "000_vocals.wav").unlink()
    (tmp_path / "run" / "done" / "00000.json").unlink()
    finish(tmp_path / "run", setup)
    assert sorted(contents(copy)) == ["done/00000.json", "failed/unit-00000.jsonl"]
    assert not list(tmp_path.glob("run/data/*"))


def test_workers_read_from_a_bucket_and_publish_to_it(songs, s3, tmp_path):
    bucket, environment = s3
    bucket.put(f"{songs}/", "store/songs/", recursive=True)
    options = ("--workers", 2, "--songs-per-unit", 1, "--separate", "none")
    here = command(songs, "-o", tmp_path / "here", *options)
    there = command("s3://store/songs", "-o", tmp_path / "there", *options, "--publish", "s3://store/tokens", env=environment)
    assert (here.returncode, there.returncode) == (3, 3), here.stderr + there.stderr
    expected, found = outputs(tmp_path / "here"), outputs(tmp_path / "there")
    data = [name for name in expected if name.startswith("data")]
    assert len(data) == 2
    for name in data:
        assert expected[name] == found[name] == bucket.cat_file(f"store/tokens/{name}")
    assert failures(tmp_path / "there")["page.mp3"]["message"].startswith("s3://store/songs/page.mp3: expected audio")


class _Answers(http.server.BaseHTTPRequestHandler):
    """Answers a request with the status in its path."""

    def do_GET(self) -> None:
        self.send_error(int(self.path[1:4]))

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


def reason(address: str) -> str:
    with pytest.raises(AudioError, match=f"^{address}: expected") as caught, fetched(Song("id", "x", mixture_path=address)):
        pass
    return caught.value.reason


def test_a_server_that_does_not_answer_is_told_from_a_file_that_is_gone():
    pytest.importorskip("aiohttp", reason="needs the package aiohttp")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        at = f"http://127.0.0.1:{server.server_port}"
        found = {status: reason(f"{at}/{status}.wav") for status in (404, 410, 403, 503)}
        server.shutdown()
        thread.join()
    assert found == {404: "missing", 410: "missing", 403: "unreachable", 503: "unreachable"}
    assert reason(f"{at}/200.wav") == "unreachable", "nobody listens there any more"
    assert size(f"{at}/200.wav") == 0


def test_without_credentials_a_store_cannot_be_reached(tmp_path, monkeypatch):
    """Its error is of its own kind, and none of the system's."""
    s3fs = pytest.importorskip("s3fs", reason="needs the package s3fs")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    assert reason("s3://store/song.wav") == "unreachable" and size("s3://store/song.wav") == 0
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"expected to copy file; got NoCredentialsError: .*; make the place reachable"):
        publish([tmp_path / "file"], tmp_path, "s3://store/run")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nowhere://bucket/songs", "expected an address that fsspec can open; got Protocol not known: nowhere"),
        ("memory://empty/songs", "expected an audio file, a folder or a .jsonl manifest; got nothing there"),
        ("memory://empty/songs.jsonl", "expected a manifest in UTF-8; got"),
    ],
)
def test_addresses_that_are_wrong(address, message):
    with pytest.raises(PlanError, match=message):
        collect([address])
