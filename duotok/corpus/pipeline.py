"""Many songs at once: threads that decode and resample in front, one encoder behind a queue of bounded length.

Without such threads the encoder's own decodes, and asks for a window when it needs one: the whole keeps one core busy.

Windows of all songs share the encoder's one batch shape, so that the codes are those of each song alone. What is held is the
queue, one window a track and decoder, and the codes of songs under way: nothing that grows with the length of a song but its
codes, two bytes each.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass

import numpy as np
import torch

from duotok.tokenizer import DuoTok

from .reader import MixturePolicy
from .songs import Song
from .stopwatch import Stopwatch
from .worker import Outcome, SongCodes, SongWindows, blame, make_row


class EncoderError(RuntimeError):
    """The encoder failed with windows of several songs in it."""


@dataclass
class _Flight:
    """A song under way, and what became of it: an error, or None once its windows have all been read."""

    reading: SongWindows
    codes: SongCodes
    read: bool = False
    error: Exception | None = None


class Pipeline:
    """Tokenizes lists of songs with the same tools."""

    def __init__(
        self, tokenizer: DuoTok, policy: MixturePolicy, watch: Stopwatch, num_decoders: int = 1, queue_s: float = 240.0
    ) -> None:
        """Take the tools.

        Args:
            tokenizer, policy: what to tokenize with.
            watch: counts the seconds of each stage.
            num_decoders: threads that decode and resample; 0 lets the encoder's thread do it.
            queue_s: seconds of audio, of one track, that may wait for the encoder.
        """
        windows = tokenizer.config.windows
        self._tokenizer, self._policy, self._watch, self._num_decoders = tokenizer, policy, watch, num_decoders
        seconds = windows.window_frames / tokenizer.frame_rate
        self._room = max(2 * windows.batch_size, 2, int(queue_s / seconds))

    def run(self, songs: list[Song], on_begin: Callable[[Song], None] = lambda song: None) -> Iterator[tuple[Song, Outcome]]:
        """Yield every song with its outcome as soon as it is known, in any order.

        Args:
            songs: what to tokenize.
            on_begin: called by a decoder before it opens a song.

        Raises:
            OSError: if the machine fails: a full disk, no memory.
            EncoderError: if the encoder fails.
        """
        decoders = _Decoders(self._tokenizer, self._policy, self._watch, songs, on_begin, self._room)
        decoders.start(min(self._num_decoders, len(songs)))
        try:
            yield from self._encode(decoders)
        finally:
            decoders.stop()

    def _encode(self, decoders: _Decoders) -> Iterator[tuple[Song, Outcome]]:
        ended: list[_Flight] = []
        encoded = self._tokenizer.encode_windows(self._windows(decoders, ended))
        while True:
            with self._watch.stage("encode"):
                flight, codes = self._next(encoded)
            if flight is not None:
                flight.codes.push(*codes)
                if flight.read and flight.codes.num_windows == flight.reading.num_windows:
                    ended.append(flight)
            with self._watch.stage("write"):
                landed = [(each.reading.song, _outcome(each)) for each in ended]
            ended.clear()
            yield from landed
            if flight is None:
                return

    def _next(self, encoded: Iterator) -> tuple[_Flight | None, tuple]:
        try:
            (flight, track), codes = next(encoded, ((None, None), None))
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise OSError(
                f"expected memory for a batch of windows; got {error}; use fewer workers or a smaller batch"
            ) from error
        except (RuntimeError, ValueError, ArithmeticError, LookupError, TypeError) as error:
            raise EncoderError(f"{type(error).__name__}: {error}") from error
        return flight, (track, codes)

    def _windows(self, decoders: _Decoders, ended: list[_Flight]) -> Iterator[tuple[tuple[_Flight, int], int, np.ndarray]]:
        """Hand the decoders' windows to the encoder, and put songs to `ended` that have no window to wait for."""
        while True:
            with self._watch.stage("wait"):
                item = decoders.get()
            if item is None:
                return
            flight, track, wave = item
            if wave is not None:
                yield (flight, track), track, wave
            elif flight.error or flight.codes.num_windows == flight.reading.num_windows:
                ended.append(flight)
            else:
                flight.read = True


def _outcome(flight: _Flight) -> Outcome:
    song = flight.reading.song
    if flight.error:
        return blame(song, flight.error)
    try:
        row = make_row(flight.reading, flight.codes)
    except Exception as error:  # noqa: BLE001 - `blame` raises again what is not the song's
        return blame(song, error)
    return Outcome(row, None, row["duration"])


# What a song gives: (flight, track, wave), and (flight, 0, None) at its end.
_Item = tuple[_Flight, int, np.ndarray | None]


class _Decoders:
    """Turns songs into items, in threads of its own or, without any, in the one that asks for them."""

    def __init__(
        self, tokenizer: DuoTok, policy: MixturePolicy, watch: Stopwatch, songs: list[Song], on_begin: Callable, room: int
    ) -> None:
        self._tokenizer, self._policy, self._watch, self._on_begin = tokenizer, policy, watch, on_begin
        self._songs, self._lock = iter(songs), threading.Lock()
        self._queue: queue.Queue = queue.Queue(room)
        self._stopped, self._num_alive = threading.Event(), 0
        self._threads: list[threading.Thread] = []
        self._own = self._items()  # empty once threads have taken all songs

    def start(self, number: int) -> None:
        self._num_alive = number
        self._threads = [threading.Thread(target=self._decode, daemon=True) for _ in range(number)]
        for thread in self._threads:
            thread.start()

    def get(self) -> _Item | None:
        """Take the next item; None at the end of all songs. Raises what went wrong outside of a song."""
        while self._num_alive:
            item = self._queue.get()
            if isinstance(item, BaseException):
                raise item
            if item is not None:
                return item
            self._num_alive -= 1
        return next(self._own, None)

    def stop(self) -> None:
        """Let the threads end: those that still decode do so with their next window."""
        self._stopped.set()
        self._own.close()
        with suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        for thread in self._threads:
            thread.join(timeout=1)

    def _decode(self) -> None:
        try:
            with closing(self._items()) as items:
                all(map(self._put, items))  # until it is stopped
            self._put(None)
        except BaseException as error:  # noqa: BLE001 - raised again by `get`
            self._put(error)

    def _next_song(self) -> Song | None:
        with self._lock:
            return None if self._stopped.is_set() else next(self._songs, None)

    def _items(self) -> Iterator[_Item]:
        while (song := self._next_song()) is not None:
            self._on_begin(song)
            yield from self._read(song)

    def _read(self, song: Song) -> Iterator[_Item]:
        flight = _Flight(SongWindows(self._tokenizer, song, self._policy), SongCodes(self._tokenizer))
        windows = iter(flight.reading)
        while True:
            try:
                with self._watch.stage("decode"):
                    window = next(windows, None)
            except Exception as error:  # noqa: BLE001 - becomes the song's failure, or is raised again there
                flight.error, window = error, None
            if window is None:
                break
            yield flight, *window
        yield flight, 0, None

    def _put(self, item: object) -> bool:
        """Wait for room; False once all is stopped."""
        while not self._stopped.is_set():
            with suppress(queue.Full):
                self._queue.put(item, timeout=0.2)
                return True
        return False
