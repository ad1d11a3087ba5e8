"""What experiments switch: noise added instead of replacing, and the accompaniment's notes as a task."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from duotok.kernels import replace_noise
from make_songs import small_config, songs_of, write_manifest, write_song

from duotok.training.data import Crop
from duotok.training.stage import Stage
from duotok.training.stages import make_stage

SEED = torch.tensor([3, 5])
STILL = ("model.trunk.block.dropout=0", "model.heads.masks=false")
NOTES = "model.heads.notes=true"


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    """Three songs of 6 s, of which two have notes, unsorted; the last one is held out."""
    folder = tmp_path_factory.mktemp("songs")
    rows = [write_song(folder, f"song{i}", "ab cda bcdab", seed=i) for i in range(3)]
    notes = {"vocals": [[0.0, 1.0, 30]], "accompaniment": [[1.5, 0.5, 67], [0.5, 1.0, 64], [0.5, 1.0, 60], [4.0, 1.0, 72]]}
    (folder / "notes.json").write_text(json.dumps(notes))
    rows[0]["notes_path"] = rows[2]["notes_path"] = "notes.json"
    return songs_of(write_manifest(folder, [row | {"split": "held_out" if i == 2 else "train"} for i, row in enumerate(rows)]))


def narrow_of(stage: Stage, batch) -> tuple[torch.Tensor, torch.Tensor]:
    """What a training pass puts into the bottleneck's projections, and what reaches the second one."""
    seen, slot = [], stage.model.trunk.bottleneck
    handles = [
        slot.norm.register_forward_hook(lambda _, inputs, out: seen.append(out)),
        slot.proj_out.register_forward_hook(lambda _, inputs, out: seen.append(inputs[0])),
    ]
    stage.train()(batch, SEED)
    for handle in handles:
        handle.remove()
    before, after = seen
    return before.view_as(after), after


def test_noise_is_added_to_the_frames_that_it_would_replace(songs):
    before, replaced = narrow_of(made := make_stage(small_config(2, *STILL), songs), batch := made.batch(1, 0))
    before_added, added = narrow_of(make_stage(small_config(2, *STILL, "noise=add"), songs), batch)
    assert torch.equal(before, before_added)
    noisy = (replaced != before).any(-1)
    assert 0 < noisy.sum() < noisy.numel() and torch.equal(noisy, (added != before).any(-1))
    torch.testing.assert_close((added - before)[noisy], replaced[noisy])


def test_noise_at_the_input_reaches_the_trunk_while_training_only(songs):
    stage, heard = make_stage(small_config(2, *STILL, "noise=add_to_input", "model.bottleneck.replace_p=0.5"), songs), []
    stage.model.trunk.downsample.register_forward_hook(lambda _, inputs, out: heard.append(inputs[0]))
    batch = stage.batch(1, 0)
    mel = stage.mel(stage.input_wave(batch))
    before, after = narrow_of(stage, batch)
    assert torch.equal(before, after), "the bottleneck itself is left alone"
    torch.testing.assert_close(heard[0], replace_noise(mel, 0.5, 1.0, SEED, additive=True))
    stage.eval()(batch, SEED)
    assert not torch.equal(heard[0], mel) and torch.equal(heard[1], mel)


def test_notes_are_read_in_the_order_of_onset_and_pitch(songs):
    by_id = {song.id: song for song in (*songs.train, *songs.held_out)}
    crop = Crop(by_id["song0"], 12_000, 60_000)  # 0.5 s to 3 s
    assert crop.notes(24_000) == [61, 65, 68] and Crop(by_id["song0"], 12_001, 60_000).notes(24_000) == [68]
    assert Crop(by_id["song1"], 0, 60_000).notes(24_000) == []
    later = by_id["song0"].part(12_000, 60_000, 24_000)
    assert [(note.onset, note.midi) for note in later.notes] == [(0.0, 60), (0.0, 64), (1.0, 67)]


def test_notes_that_cannot_be_read_leave_their_song_out(tmp_path):
    rows = [write_song(tmp_path, f"song{i}", "abcd", seed=i) for i in range(4)]
    for number, text in enumerate(('{"accompaniment": [[0.0, 1.0]]}', '{"vocals": []}')):
        (tmp_path / f"{number}.json").write_text(text)
        rows[number]["notes_path"] = f"{number}.json"
    found = songs_of(write_manifest(tmp_path, rows))
    assert [problem.split(":")[:2] for problem in found.problems] == [["song0", " notes"], ["song1", " notes"]]
    assert len(found.train) + len(found.held_out) == 2


@pytest.mark.parametrize("number", [2, 3])
def test_the_notes_task_is_ctc_on_the_accompaniment_alone(number, songs):
    own = STILL[:1] if number == 3 else STILL
    stage = make_stage(small_config(number, *own, NOTES, "weights.notes=0.5", "data.crop_s=5"), songs).eval()
    by_id = {song.id: song for song in songs.train}
    batch = stage.collate([Crop(by_id[name], 0, 120_000) for name in ("song0", "song1")])
    items = [0, 0, 4, 0] if number == 3 else [4, 0]  # stage 3 has all vocals first, then all accompaniments
    assert batch.tensors["note_lengths"].tolist() == items
    seen = []
    stage.model.heads["notes"].register_forward_hook(lambda _, inputs, out: seen.append(out))
    losses = stage(batch, SEED)
    item = items.index(4)
    expected = F.ctc_loss(seen[0][item].log_softmax(-1)[:, None], torch.tensor([[61, 65, 68, 73]]), [125], [4], reduction="sum")
    torch.testing.assert_close(losses["notes"].value, expected / 4)
    plain = make_stage(small_config(number, *own, "data.crop_s=5"), songs).eval()
    plain.load_state_dict({name: value for name, value in stage.state_dict().items() if ".notes." not in name})
    torch.testing.assert_close(losses["loss"], plain(plain.collate([Crop(by_id[n], 0, 120_000) for n in by_id]), SEED)["loss"]
                               + 0.5 * losses["notes"].value)  # fmt: skip
