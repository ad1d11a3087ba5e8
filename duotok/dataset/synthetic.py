"""One song from one score: sung, played, mixed, and kept with all that is known of it.

A song is a folder: vocals.flac, accompaniment.flac and its parts drums.flac, bass.flac and other.flac (48 kHz, stereo, 16 bits,
of one length; the parts add up to the accompaniment exactly), notes.json, and song.json, its line of the manifest. The folder
appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from . import mix
from .arrangement import Part, arrange
from .manifest import split_of
from .midi import play
from .musicxml import Score, UnsuitedScore
from .song_folder import song_folder
from .voice import Voice, choose_voice, sing
from .words import SungWord, is_english, sung_words

RECIPE = 1  # to be raised when a change makes the same seed sound differently
_STEMS = ("drums", "bass", "other")
_DURATION_S = (30.0, 300.0)
_FEWEST_WORDS = 15
_PACE = (0.92, 1.12)
_TAIL_S = 1.5  # for the room to decay
_LINE_GAP_S = 0.3  # a rest this long ends a line of the lyrics


@dataclass(frozen=True)
class Source:
    """Where scores come from: what precedes their names in ids, a name and a licence for the manifest."""

    prefix: str
    name: str
    licence: str


@dataclass(frozen=True)
class Plan:
    """A song that can be made: its words and duration in seconds, and how many times faster than printed it is."""

    words: list[SungWord]
    duration_s: float
    pace: float


def generator_of(song_id: str, seed: int) -> np.random.Generator:
    """Make the random numbers of a song, which depend on nothing but its id and the seed."""
    digest = hashlib.sha256(song_id.encode()).digest()
    return np.random.default_rng((seed, int.from_bytes(digest[:8], "big")))


def plan_song(score: Score, song_id: str, generator: np.random.Generator) -> Plan:
    """Decide on a song's pace and length.

    Raises:
        UnsuitedScore: if it is not English, has few words or no accompaniment, or is too short or long.
    """
    pace = float(generator.uniform(*_PACE))
    words = sung_words(score, pace)
    duration = float(score.seconds(score.end)) / pace + _TAIL_S
    if not is_english([word.text for word in words]):
        raise UnsuitedScore(f"{song_id}: expected English lyrics; got others; leave it out")
    if len(words) < _FEWEST_WORDS or not score.accompaniment:
        found = f"{len(words)} words and {len(score.accompaniment)} notes"
        raise UnsuitedScore(f"{song_id}: expected {_FEWEST_WORDS} words or more, accompanied; got {found}; leave it out")
    if not _DURATION_S[0] <= duration <= _DURATION_S[1]:
        low, high = _DURATION_S
        raise UnsuitedScore(f"{song_id}: expected {low:g} to {high:g} s; got {duration:.1f} s; leave it out")
    return Plan(words, duration, pace)


def make_song(score: Score, song_id: str, source: Source, seed: int, soundfont: Path, folder: Path) -> dict[str, Any]:
    """Make a song's folder, unless it is there already.

    Args:
        score: that is sung and played.
        song_id: names the folder, and with the seed draws all that is random.
        source: for the manifest.
        seed: of the corpus.
        soundfont: of the instruments.
        folder: of all songs.

    Returns:
        The song's line of the manifest, with paths relative to the parent of `folder`.

    Raises:
        UnsuitedScore: if the score cannot be used.
        ToolError: if a program fails.
    """
    target, key = folder / song_id, {"recipe": RECIPE, "seed": seed}
    if (target / "song.json").is_file():
        kept = json.loads((target / "song.json").read_text(encoding="utf-8"))
        if {name: kept[name] for name in key} == key:
            return kept
        shutil.rmtree(target)
    generator = generator_of(song_id, seed)
    plan = plan_song(score, song_id, generator)
    voice, parts = choose_voice(plan.words, generator), arrange(score, plan.pace, generator)
    num_samples = round(plan.duration_s * mix.SAMPLE_RATE)
    performance = sing(plan.words, voice, num_samples, generator)
    played = {name: play(parts[name].notes, parts[name].programs, soundfont, num_samples) for name in _STEMS}
    stems = {"vocals": mix.in_room(performance.wave, mix.VOCAL_ROOM, generator)}
    stems |= {name: mix.in_room(wave, mix.ROOMS[name], generator) for name, wave in played.items()}
    levels = {"vocals": 2.0, "drums": -4.0, "bass": -5.0, "other": 0.0}
    levels = {name: level + float(generator.normal(0, 2)) for name, level in levels.items()}
    mixed = mix.balance(stems, levels, float(generator.uniform(-8, -1)))
    row = _row(score, song_id, source, folder.name, num_samples) | _lyrics(plan.words, performance.times)
    row |= {"singer": f"{voice.singer} (flite {voice.speaker})", "instruments": _instruments(parts), **key}
    _keep(target, mixed, row, {"vocals": _sung_notes(plan.words, voice), "accompaniment": _played_notes(parts)})
    return row


def _row(score: Score, song_id: str, source: Source, folder: str, num_samples: int) -> dict[str, Any]:
    place = f"{folder}/{song_id}"
    return {
        "id": song_id,
        "vocal_path": f"{place}/vocals.flac",
        "accompaniment_path": f"{place}/accompaniment.flac",
        "stems": {name: f"{place}/{name}.flac" for name in _STEMS},
        "notes_path": f"{place}/notes.json",
        "duration": num_samples / mix.SAMPLE_RATE,
        "split": split_of(song_id),
        "title": score.title,
        "composer": score.composer,
        "source": source.name,
        "licence": source.licence,
        "language": "en",
    }


def _lyrics(words: Sequence[SungWord], times: np.ndarray) -> dict[str, Any]:
    """Write the text, a line for each phrase, and its words with their times (W, 2)."""
    text = ""
    for i, word in enumerate(words):
        rest = times[i, 0] - times[i - 1, 1] if i else 0.0
        text += ("\n" if rest > _LINE_GAP_S else " ") * bool(i) + word.text
    spans = np.round(times, 3).tolist()
    timed = [{"start": start, "end": end, "text": w.text} for (start, end), w in zip(spans, words, strict=True)]
    return {"text": text, "words": timed}


def _instruments(parts: dict[str, Part]) -> list[str]:
    return [name for part in parts.values() for name in part.instruments]


def _sung_notes(words: Sequence[SungWord], voice: Voice) -> list[list[float]]:
    """List [onset, duration, MIDI pitch] as sung, in seconds."""
    notes = [note for word in words for syllable in word.syllables for note in syllable]
    return [[round(n.onset, 3), round(n.end - n.onset, 3), n.midi + voice.shift] for n in notes]


def _played_notes(parts: dict[str, Part]) -> list[list[float]]:
    """List [onset, duration, MIDI pitch] of all instruments but drums, in seconds."""
    notes = {(round(n.onset, 3), round(n.end - n.onset, 3), n.midi) for name in ("bass", "other") for n in parts[name].notes}
    return [list(note) for note in sorted(notes)]


def _keep(target: Path, stems: dict[str, np.ndarray], row: dict[str, Any], notes: dict[str, list]) -> None:
    with song_folder(target) as folder:
        for name, wave in stems.items():
            soundfile.write(folder / f"{name}.flac", wave.T, mix.SAMPLE_RATE, "PCM_16")
        (folder / "notes.json").write_text(json.dumps(notes), encoding="utf-8")
        (folder / "song.json").write_text(json.dumps(row, ensure_ascii=False, indent=1), encoding="utf-8")
