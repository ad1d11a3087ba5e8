"""From phones to notes: which consonants a vowel takes, and that every phone has its place and none another's."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from duotok.dataset.phones import VOWELS, Phone, SpokenSyllable, SungSyllable, place, split_word
from duotok.dataset.speech import read_phones
from duotok.dataset.tools import ToolError
from duotok.dataset.voice import syllables
from duotok.dataset.words import SungNote, SungWord


def phones(names: str, length: float = 0.1) -> list[Phone]:
    return [Phone(name, round(i * length, 3), round((i + 1) * length, 3)) for i, name in enumerate(names.split())]


def names(syllable: SpokenSyllable | None) -> str | None:
    if syllable is None:
        return None
    return "|".join(" ".join(phone.name for phone in part) for part in (syllable.head, syllable.nucleus, syllable.tail))


@pytest.mark.parametrize(
    ("word", "count", "expected"),
    [
        ("s iy", 1, ["s|iy|"]),
        ("hh eh v ax n", 2, ["hh|eh|", "v|ax|n"]),
        ("s ih s t er", 2, ["s|ih|s", "t|er|"]),
        ("m ow m ax n t", 1, ["m|ow m ax|n t"]),  # two vowels on one note
        ("f ay er", 3, ["f|ay|", "|er|", None]),  # a vowel that lasts over another note
        ("d ey", 3, ["d|ey|", None, None]),
        ("m", 1, ["|m|"]),
        ("s m", 1, ["s|m|"]),  # a voiced consonant carries the note
    ],
)
def test_consonants_go_with_their_vowels(word, count, expected):
    assert [names(syllable) for syllable in split_word(phones(word), count)] == expected


def test_a_word_without_phones_is_refused():
    with pytest.raises(ValueError, match="expected a phone or more"):
        split_word([], 1)


def spoken(word: str) -> SpokenSyllable:
    return split_word(phones(word), 1)[0]


def test_a_vowel_begins_on_its_note_and_consonants_before_it():
    [s, attack, middle, release, t] = place([SungSyllable(0, 1.0, 2.0)], [spoken("s iy t")])
    assert (s.phone, s.start, s.end) == ("s", pytest.approx(0.9), 1.0)
    assert attack.start == 1.0 and release.end == pytest.approx(1.9)
    assert (t.start, t.end) == (pytest.approx(1.9), pytest.approx(2.0))
    # Only the middle of the vowel is stretched.
    for piece in (s, attack, release, t):
        assert piece.end - piece.start == pytest.approx(piece.source_end - piece.source_start)
    assert (middle.end - middle.start) > 15 * (middle.source_end - middle.source_start)


def random_song(seed: int) -> tuple[list[SungSyllable], list[SpokenSyllable]]:
    generator = np.random.default_rng(seed)
    sung, now = [], float(generator.choice([0.0, 0.05, 2.0]))
    words = ["s t r eh ng k th s", "ax", "m ay n d", "s iy", "p r eh sh", "hh ow l d z"]
    chosen = generator.choice(words, 40)
    for index in range(len(chosen)):
        length = float(generator.uniform(0.05, 1.5))
        sung.append(SungSyllable(index, now, now + length))
        now += length + float(generator.choice([0, 0, 0, 0.01, 0.1, 1.0]))
    return sung, [spoken(word) for word in chosen]


@pytest.mark.parametrize("seed", range(20))
def test_pieces_follow_one_another_and_vowels_keep_their_share(seed):
    sung, words = random_song(seed)
    pieces = place(sung, words)
    assert all(before.end <= after.start + 1e-9 for before, after in pairwise(pieces))
    assert all(piece.end >= piece.start >= 0 and piece.source_end >= piece.source_start for piece in pieces)
    for syllable in sung:
        vowel = [piece for piece in pieces if piece.word == syllable.word and piece.phone in VOWELS]
        assert vowel[0].start == syllable.onset
        assert vowel[-1].end - vowel[0].start >= 0.5 * (syllable.end - syllable.onset) - 1e-9
        assert vowel[-1].end <= syllable.end + 1e-9


def test_nothing_is_sung_where_the_score_rests():
    sung, words = [SungSyllable(0, 0.5, 1.0), SungSyllable(1, 4.0, 5.0)], [spoken("s iy t"), spoken("s iy t")]
    pieces = place(sung, words)
    assert not [piece for piece in pieces if 1.0 + 1e-9 < piece.end < 3.8 or 1.01 < piece.start < 3.8]


def test_flites_marks_become_phones():
    lines = ["pau:0.184 dh:0.237 ax:0.311 pau:0.498 ", "pau:0.159 s:0.266 iy:0.401 pau:0.652 "]
    [the, sea] = read_phones(lines, 0.495 + 0.650)
    assert [phone.name for phone in the + sea] == ["dh", "ax", "s", "iy"]
    assert (the[0].start, the[1].end) == (0.184, 0.311)
    assert sea[0].start == pytest.approx(0.495 + 0.159)
    [_, later] = read_phones(lines, 0.495 + 0.645)  # a frame less in all is shared
    assert later[0].start == pytest.approx(0.4925 + 0.159)
    with pytest.raises(ToolError, match=r"expected 1\.145 s of speech; got 0\.900 s"):
        read_phones(lines, 0.9)


def test_syllables_without_a_vowel_of_their_own_prolong_the_one_before():
    notes = [SungNote(i, i + 1.0, 60 + i) for i in range(3)]
    words = [SungWord("fire", ((notes[0],), (notes[1],))), SungWord("a", ((notes[2],),))]
    sung, said = syllables(words, [phones("f ay"), phones("ax")])
    assert sung == [SungSyllable(0, 0, 2), SungSyllable(1, 2, 3)] and [names(s) for s in said] == ["f|ay|", "|ax|"]
