"""MusicXML: notes, ties, chords, voices, verses, tempi, transposition, and files that are no scores."""

from __future__ import annotations

import io
import zipfile

import make_scores as scores
import numpy as np
import pytest

from duotok.dataset.musicxml import Bar, Note, ScoreError, Syllable, UnsuitedScore, read_score
from duotok.dataset.words import is_english, spelling, sung_words

PIANO = scores.part(scores.measure(scores.note("C4", 4), first=True))


def read(*parts: str):
    return read_score(scores.score(*parts), "song.xml")


def voice(*notes: str, more: str = "") -> str:
    return scores.part(scores.measure(*notes, first=True), more)


def test_notes_have_onsets_durations_pitches_and_syllables():
    sung = voice(
        scores.note("E4", 1, "Heav", "begin"), scores.note("F#4", 0.5, "en", "end"), scores.rest(0.5), scores.note("Bb3", 2)
    )
    score = read(sung, PIANO)
    heav, en = Syllable("Heav", True, False), Syllable("en", False, True)
    assert score.voice == (Note(0, 1, 64, 1, heav), Note(1, 0.5, 66, 1, en), Note(2, 2, 58))
    assert score.accompaniment == (Note(0, 4, 60),)
    assert (score.title, score.composer, score.end) == ("A Song", "Ann O'Nymous", 4)


def test_tied_notes_are_one_and_chords_share_their_onset():
    first = scores.measure(
        scores.note("C4", 2, "la"), scores.note("G3", 2, chord=True), scores.note("D4", 2, "lo", tie="start"), first=True
    )
    second = scores.measure(scores.note("D4", 1, tie="stop"), scores.note("D4", 3, "li"))
    score = read(scores.part(first, second), scores.part(first.replace("lyric", "ignored"), second.replace("lyric", "ignored")))
    assert [(n.onset, n.duration, n.midi) for n in score.voice] == [(0, 2, 60), (2, 3, 62), (5, 3, 62)]
    assert [(n.onset, n.duration, n.midi) for n in score.accompaniment] == [(0, 2, 55), (0, 2, 60), (2, 3, 62), (5, 3, 62)]


def test_staves_run_side_by_side_and_grace_notes_take_no_time():
    both = scores.measure(
        scores.note("C5", 4), scores.backup(4),
        scores.note("C3", 2, staff=2), scores.grace("B2"), scores.note("D3", 2, staff=2), first=True,
    )  # fmt: skip
    score = read(voice(scores.note("C4", 4, "oh")), scores.part(both))
    assert [(n.onset, n.midi, n.staff) for n in score.accompaniment] == [(0, 48, 2), (0, 72, 1), (2, 50, 2)]


def test_only_the_first_verse_is_sung():
    note = scores.note("C4", 4, "one").replace("</lyric>", '</lyric><lyric number="2"><text>two</text></lyric>')
    assert [n.syllable.text for n in read(voice(note), PIANO).voice] == ["one"]


def test_tempi_make_seconds():
    slow = scores.measure(scores.tempo(30), scores.note("C4", 4, "b"))
    score = read(scores.part(scores.measure(scores.tempo(120), scores.note("C4", 4, "a"), first=True), slow), PIANO)
    assert score.seconds([0, 2, 4, 6, 8, 10]).tolist() == [0, 1, 2, 6, 10, 14]
    assert read(voice(scores.note("C4", 4, "a")), PIANO).seconds(96) == pytest.approx(60)  # 96 a minute if nothing is said


def test_a_tempo_in_another_part_counts_too():
    piano = scores.part(scores.measure(scores.tempo(60), scores.note("C4", 4), first=True))
    assert read(voice(scores.note("C4", 4, "a")), piano).seconds(4) == 4


def test_instruments_sound_where_they_are_transposed_to():
    clarinet = scores.measure(scores.note("D5", 4), first=True, transpose=-2)
    assert read(voice(scores.note("C4", 4, "a")), scores.part(clarinet)).accompaniment[0].midi == 72


@pytest.mark.parametrize(
    ("meter", "beats"), [("4/4", (0, 1, 2, 3)), ("3/4", (0, 1, 2)), ("6/8", (0, 1.5)), ("2/2", (0, 2)), ("3+2/8", (0, 0.5, 1))]
)
def test_bars_know_their_beats(meter, beats):
    count = sum(map(int, meter.split("/")[0].split("+"))) * 4 / int(meter.split("/")[1])
    score = read(scores.part(scores.measure(scores.note("C4", count, "a"), first=True, meter=meter)), PIANO)
    assert score.bars[0].onset == 0 and score.bars[0].beats[: len(beats)] == beats
    assert isinstance(score.bars[0], Bar) and max(score.bars[0].beats) < count


def test_compressed_scores_are_opened():
    plain = scores.score(voice(scores.note("C4", 4, "a")), PIANO)
    assert read_score(scores.compressed(plain), "x.mxl") == read_score(plain, "x.xml")


@pytest.mark.parametrize(
    "data", [b"", b"<html>", b"PK\x03\x04 cut", b"\xff\xfe", scores.score("<part><measure><note/></measure>")]
)
def test_what_is_no_score_is_named(data):
    with pytest.raises(ScoreError, match=r"x\.mxl: expected "):
        read_score(data, "x.mxl")


def test_a_zip_without_a_score_is_named():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "no")
    with pytest.raises(ScoreError, match=r"expected MusicXML; got KeyError"):
        read_score(buffer.getvalue(), "x.mxl")


@pytest.mark.parametrize("parts", [(PIANO,), (voice(scores.note("C4", 4, "a")),) * 2])
def test_one_part_must_be_sung(parts):
    with pytest.raises(UnsuitedScore, match=r"expected one part with lyrics; got [02]"):
        read(*parts)


def test_words_gather_syllables_and_the_notes_they_last_over():
    sung = voice(
        scores.tempo(60), scores.note("C4", 1, "1. Heav", "begin"), scores.note("D4", 1), scores.note("E4", 1, "en,", "end"),
        scores.rest(1), scores.note("F4", 1), scores.note("G4", 1, "—"), scores.note("G4", 1, "sang"),
    )  # fmt: skip
    words = sung_words(read(sung, PIANO))
    assert [word.text for word in words] == ["Heaven,", "sang"]
    spans = [[(note.onset, note.end, note.midi) for note in syllable] for word in words for syllable in word.syllables]
    assert spans == [[(0, 1, 60), (1, 2, 62)], [(2, 3, 64)], [(6, 7, 67)]]  # what follows a rest without a syllable is left out
    assert np.allclose([note.onset for note in sung_words(read(sung, PIANO), 2.0)[1].syllables[0]], 3)


def test_spelling_and_language():
    assert [spelling(text) for text in ("“Heav\u2019n,”", "'tis", "—", "fell in")] == ["heav'n", "tis", "", "fell in"]
    assert is_english(["Take,", "O", "take", "those", "lips", "away,", "That", "so", "sweetly", "were", "forsworn,", "And"])
    assert not is_english(["Wenn", "ich", "in", "deine", "Augen", "seh,", "so", "schwindet", "all", "mein", "Leid", "und"])
    assert not is_english([])
