"""Lyrics: normalisation, vocabularies, CTC reading, alignment against all paths, error rates against jiwer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from duotok import lyrics
from duotok.lyrics import BYTES, SentencePieces, align, align_units, decode, edit_distance, encode, greedy, normalize
from duotok.model.heads import HeadsConfig

TEXTS = ["Let it be", "[Chorus]\nÆther, don\u2019t cry!", "夜空の星", "", "well-known  (oh)\tthings...", "ＦＵＬＬ width ﬁ"]


def log_softmax(frames: int, units: int, seed: int) -> np.ndarray:
    return torch.log_softmax(torch.randn(frames, units, generator=torch.Generator().manual_seed(seed)), -1).numpy()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  [Verse 1: Ann]\nOh, DON\u2019T\u00a0you 'cry' — no! ", "oh don't you cry no"),
        ("ﬁn de siècle №5", "fin de siècle no5"),
        ("e\u0301te\u0301", "été"),
        ("夜空（よぞら）！", "夜空 よぞら"),
        ("[only a mark]", ""),
        ("a [not\na mark] b", "a not a mark b"),
    ],
)
def test_normalised_text_is_what_is_sung(text, expected):
    assert normalize(text) == expected
    assert normalize(expected) == expected


@pytest.mark.parametrize("text", TEXTS)
def test_bytes_come_back_and_never_are_the_blank(text):
    units = encode(text)
    assert decode(units) == normalize(text)
    assert all(1 <= unit <= BYTES.size for unit in units)


def test_default_vocabulary_is_the_lyrics_heads():
    assert HeadsConfig().vocab_size == BYTES.size and lyrics.BLANK == 0


def test_bytes_say_which_word_a_unit_belongs_to():
    units, owners = BYTES.spell(["é", "a"])
    assert units == [0xC3 + 1, 0xA9 + 1, 33, 98] and owners == [0, 0, -1, 1]
    assert decode([0xC3 + 1]) == "\ufffd"


def test_sentence_pieces_come_back(tmp_path):
    pieces = pytest.importorskip("sentencepiece", reason="needs the extra: pip install 'duotok[text]'")
    corpus = tmp_path / "lines.txt"
    corpus.write_text("the sea is calling\nthe night is deep\nsing to the sea at night\n" * 5)
    pieces.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(tmp_path / "m"), vocab_size=40, hard_vocab_limit=False, minloglevel=2
    )
    vocabulary = SentencePieces(tmp_path / "m.model")
    units = encode("[x] The sea, at night", vocabulary)
    assert decode(units, vocabulary) == "the sea at night"
    assert min(units) >= 1 and max(units) <= vocabulary.size
    spelled, owners = vocabulary.spell(["the", "sea"])
    assert len(spelled) == len(owners) and set(owners) == {0, 1}
    path = np.full((2 * len(units), vocabulary.size + 1), -9.0)
    path[np.arange(len(units)) * 2, units] = path[np.arange(len(units)) * 2 + 1, 0] = 0.0
    assert [word.text for word in align(path, "the sea at night", 25.0, vocabulary)] == ["the", "sea", "at", "night"]


def test_a_file_that_is_no_model_is_refused(tmp_path):
    pytest.importorskip("sentencepiece", reason="needs the extra: pip install 'duotok[text]'")
    (tmp_path / "m.model").write_text("no")
    with pytest.raises(ValueError, match=r"m\.model: expected a sentencepiece model; got .*; correct the path"):
        SentencePieces(tmp_path / "m.model")


def test_greedy_merges_repeats_and_drops_blanks():
    best = [0, 3, 3, 0, 3, 1, 1, 2, 0, 0]
    assert greedy(np.eye(4)[best]) == [3, 3, 1, 2]
    assert greedy(np.eye(4)[[0, 0]]) == []
    assert greedy(np.zeros((0, 4))) == []


def collapse(path: tuple[int, ...]) -> list[int]:
    return [unit for unit, _ in itertools.groupby(path) if unit]


@pytest.mark.parametrize("units", [[1], [1, 2], [2, 2], [1, 1, 2], [2, 1, 2]])
@pytest.mark.parametrize("frames", [4, 6])
def test_alignment_is_the_best_of_all_paths(units, frames):
    scores = log_softmax(frames, 3, seed=frames + sum(units))
    paths = [path for path in itertools.product(range(3), repeat=frames) if collapse(path) == units]
    best = max(paths, key=lambda path: sum(scores[t, unit] for t, unit in enumerate(path)))
    runs = [(unit, len(list(group))) for unit, group in itertools.groupby(best)]
    ends = np.cumsum([length for _, length in runs])
    expected = [(end - length, end) for (unit, length), end in zip(runs, ends, strict=True) if unit]
    assert align_units(scores, units).tolist() == [list(span) for span in expected]


def test_alignment_of_a_long_text_spells_it_and_no_shift_is_likelier():
    generator = np.random.default_rng(0)
    units = generator.integers(1, 5, 100).tolist()  # of few kinds, so that repeats are many
    scores = log_softmax(400, 5, seed=1)
    spans = align_units(scores, units)
    path = np.zeros(400, int)
    for unit, (first, last) in zip(units, spans, strict=True):
        assert last > first
        path[first:last] = unit
    assert collapse(path) == units
    likelihood = scores[np.arange(400), path].sum()
    for t in range(400):
        for unit in range(5):
            other = path.copy()
            other[t] = unit
            assert collapse(other) != units or scores[np.arange(400), other].sum() <= likelihood + 1e-9


def test_a_text_too_long_for_its_frames_is_refused():
    scores = log_softmax(3, 4, 0)
    assert len(align_units(scores, [1, 2, 3])) == 3
    with pytest.raises(ValueError, match="expected at least 4 frames for 3 units; got 3; shorten the text"):
        align_units(scores, [1, 1, 2])
    assert align_units(scores, []).shape == (0, 2)


def test_words_get_their_seconds():
    """Where each frame names its unit for certain, the times are those of the frames."""
    space = ord(" ") + 1
    frames = [0, 0, *encode("de"), 0, *encode("ep"), 0, space, *encode("x"), space, space, *encode("sea"), 0]
    scores = np.log(np.eye(257)[frames] + 1e-6)
    words = align(scores, "Deep, x [mark] sea!", frame_rate=10.0)
    assert [word.text for word in words] == ["deep", "x", "sea"]
    assert words[0].start == 0.2 and words[0].end == 0.7
    assert words[1].end - words[1].start == pytest.approx(0.1)
    assert words[2].end == (len(frames) - 1) / 10
    assert align(scores, "", 10.0) == []


@pytest.mark.parametrize(
    ("reference", "hypothesis", "distance"),
    [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("ab", "ba", 2)],
)
def test_edit_distance_of_known_pairs(reference, hypothesis, distance):
    assert edit_distance(reference, hypothesis) == distance == edit_distance(hypothesis, reference)


def test_error_rates_are_those_of_jiwer():
    jiwer = pytest.importorskip("jiwer", reason="needs the extra: pip install 'duotok[evaluate]'")
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(list("abcdefg"), 12)) for _ in range(20)]
    references, hypotheses = texts[:10], texts[10:]
    assert lyrics.word_error_rate(references, hypotheses) == pytest.approx(jiwer.wer(references, hypotheses))
    assert lyrics.character_error_rate(references, hypotheses) == pytest.approx(jiwer.cer(references, hypotheses))


def test_error_rates_compare_what_is_sung():
    assert lyrics.word_error_rate(["[Verse] Hello, World!"], ["hello world"]) == 0
    assert lyrics.word_error_rate(["one two"], ["one"]) == 0.5
    for references, hypotheses in (([""], ["a"]), (["a"], [])):
        with pytest.raises(ValueError, match="expected pairs of texts"):
            lyrics.character_error_rate(references, hypotheses)
