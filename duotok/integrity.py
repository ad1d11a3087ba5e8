"""May a song be trusted? What a file's bytes say of that, and its samples; whatever may not raises `AudioError`.

The decoders alone do not tell: libsndfile clamps lengths and fills gaps, and FFmpeg finds sound in anything.
"""

from __future__ import annotations

import codecs
import io
import re
import zlib
from pathlib import Path

import numpy as np

MIN_DURATION_S = 0.5
# Below -90 dBFS (three steps of 16 bits) a whole song counts as silent.
SILENCE_PEAK = 10 ** (-90 / 20)
# 48 dB beyond full scale: no recording, but whole numbers that were written as floats.
LARGEST_SAMPLE = 256.0
_NOT_AUDIO = (b"<!doctype", b"<html", b"<?xml", b"<head", b"%pdf", b"pk\x03\x04")
# Sizes that writers of a stream leave in a 32-bit header, because they cannot go back: -1, INT_MAX and theirs less a header.
_PLACEHOLDERS = (range(0x7FFF_0000, 0x8000_0200), range(0xFFFF_0000, 0x1_0000_0200))
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class AudioError(ValueError):
    """A song that cannot be trusted.

    Attributes:
        stage: where it showed: "plan", "open", "decode", "silence", "separate" or "validate".
        reason: a short name: "missing", "empty_file", "not_audio", "unsupported", "damaged", "truncated", "nan",
            "out_of_range", "silent", "constant", "too_short", "length_mismatch", "rate_mismatch", "no_stems", "no_partner",
            "duplicate_id", "same_stem", "changed".
    """

    def __init__(self, stage: str, reason: str, message: str) -> None:
        super().__init__(message)
        self.stage, self.reason = stage, reason

    def __reduce__(self) -> tuple:
        return type(self), (self.stage, self.reason, str(self))


def check_head(path: Path) -> None:
    """Look at a file's first bytes: FFmpeg finds stray MPEG frames in a web page saved as an mp3 (a failed download).

    Raises:
        AudioError: "empty_file" or "not_audio".
    """
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise AudioError("open", "empty_file", f"{path}: expected audio; got an empty file; replace it")
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(_NOT_AUDIO) or (_is_text(head) and not head.startswith(b"NIST_1A")):
        raise AudioError("open", "not_audio", f"{path}: expected audio; got {head[:12]!r}...; download it again")


def _is_text(head: bytes) -> bool:
    utf16 = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    decoder = codecs.getincrementaldecoder("utf-16" if utf16 else "utf-8-sig")()
    try:
        return all(char.isprintable() or char.isspace() for char in decoder.decode(head))
    except UnicodeDecodeError:
        return False


def check_size(path: Path, log: str) -> None:
    """Read in libsndfile's log whether a wav, rf64, w64, aiff, caf or au header announces more bytes than the file has.

    Raises:
        AudioError: "truncated".
    """
    for announced, found in re.findall(r": (\d+) \(should be (\d+)\)", log):
        # Eight bytes less are a header that counts itself, or a pad byte left out.
        if int(announced) > int(found) + 8 and not any(int(announced) in sizes for sizes in _PLACEHOLDERS):
            raise AudioError(
                "decode", "truncated", f"{path}: expected {announced} bytes as its header says; got {found}; replace the file"
            )


def check_ogg(path: Path) -> None:
    """Walk an Ogg file's pages (RFC 3533): each has its checksum, and the last is marked as the end of its stream.

    Raises:
        AudioError: "damaged" or "truncated".
    """
    ended = False
    with path.open("rb") as file:
        while (head := file.read(27)).startswith(b"OggS") and len(head) == 27:
            lacing = file.read(head[26])
            body = file.read(sum(lacing))
            if len(lacing) < head[26] or len(body) < sum(lacing):
                raise AudioError("decode", "truncated", f"{path}: expected a whole last page; got part of it; replace the file")
            if _ogg_checksum(head[:22] + bytes(4) + head[26:] + lacing + body) != int.from_bytes(head[22:26], "little"):
                found = f"expected pages with their checksums; got another one before byte {file.tell()}"
                raise AudioError("decode", "damaged", f"{path}: {found}; replace the file")
            ended = bool(head[5] & 4)
    if not ended and len(head) == 27:
        raise AudioError("decode", "damaged", f"{path}: expected pages side by side; got other data between; replace the file")
    if not ended:
        raise AudioError("decode", "truncated", f"{path}: expected a last page marked as such; got none; replace the file")


def _ogg_checksum(page: bytes) -> int:
    """CRC-32 of the usual polynomial, but most significant bit first and with no inversions: zlib's, turned around."""
    mirrored = zlib.crc32(page.translate(_REVERSED_BITS), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return int(f"{mirrored:032b}"[::-1], 2)


def mp3_start(path: Path) -> tuple[int, bool]:
    """Find an mp3's first frame, behind tags and junk, and whether it is a Xing header that announces the length."""
    with path.open("rb") as file:
        start = 0
        while (head := file.read(10)).startswith(b"ID3") and len(head) == 10:
            size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
            start += 10 + size
            file.seek(start)
        head += file.read(1 << 17)
    sync = re.search(rb"\xff[\xe0-\xff]", head)
    first = sync.start() if sync else 0
    found = re.search(rb"(?:Xing|Info)\0\0\0(.)", head[first : first + 200], re.DOTALL)
    return start + first, bool(found and found[1][0] & 1)


class EndlessFile(io.FileIO):
    """An mp3 without a Xing header that claims to be far longer than it is.

    libsndfile estimates the length of such a file from its size and its first frames, and stops there: a song of variable
    bit rate would lose its end. With a size that no bit rate can make up for, it reads on to the true end.
    """

    def __init__(self, path: Path, start: int) -> None:
        """Open `path`, with `start` as its first byte."""
        super().__init__(path)
        self._start, self._at_end = start, False
        self.seek(0)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte, counted from the first frame."""
        self._at_end = whence == io.SEEK_END
        super().seek(offset + (self._start if whence == io.SEEK_SET else 0), whence)
        return self.tell()

    def tell(self) -> int:
        """Tell the byte, counted from the first frame; at the end, the size that is claimed."""
        return (super().tell() - self._start) * (64 if self._at_end else 1)

    def share_read(self) -> float:
        """Tell how much of the file has been read, of 1."""
        size = Path(self.name).stat().st_size - self._start
        return (super().tell() - self._start) / size


class SignalCheck:
    """Watches the samples of a whole song go by; `finish` refuses one that holds no music."""

    def __init__(self, name: str, sample_rate: int) -> None:
        self._name, self._sample_rate = name, sample_rate
        self._num_samples = 0
        self._low, self._high = np.inf, -np.inf  # of every channel of every part

    def push(self, *parts: np.ndarray) -> None:
        """Look at simultaneous blocks (C, n) of the song's parts.

        Raises:
            AudioError: "nan" for a NaN or infinite sample, "out_of_range" for one far from -1 to 1.
        """
        low = np.concatenate([part.min(axis=1) for part in parts])
        high = np.concatenate([part.max(axis=1) for part in parts])
        peak = max(-low.min(), high.max())
        if not np.isfinite(peak):
            raise AudioError("decode", "nan", f"{self._name}: expected finite samples; got NaN or infinity; replace the file")
        if peak >= LARGEST_SAMPLE:
            found = f"expected samples of about -1 to 1; got a peak of {peak:g}"
            raise AudioError("decode", "out_of_range", f"{self._name}: {found}; scale the file")
        self._num_samples += parts[0].shape[1]
        self._low, self._high = np.minimum(self._low, low), np.maximum(self._high, high)

    def finish(self) -> None:
        """Judge the whole.

        Raises:
            AudioError: "too_short", "silent" or "constant".
        """
        seconds = self._num_samples / self._sample_rate
        if seconds < MIN_DURATION_S:
            found = f"expected at least {MIN_DURATION_S} s; got {seconds:.3f} s"
            raise AudioError("validate", "too_short", f"{self._name}: {found}; leave it out")
        if np.maximum(-self._low, self._high).max() < SILENCE_PEAK:
            raise AudioError("silence", "silent", f"{self._name}: expected sound; got a peak below -90 dBFS; leave it out")
        if (self._high - self._low).max() < SILENCE_PEAK:
            raise AudioError("silence", "constant", f"{self._name}: expected sound; got a constant; leave it out")
