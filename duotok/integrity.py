"""Is a file whole? What its bytes say of that, beside the decoder: libsndfile clamps lengths and fills gaps without a word.

Each check returns None, or a `Defect`: the reason as `AudioError` names it, and what was expected and found.
"""

from __future__ import annotations

import codecs
import io
import re
import zlib
from pathlib import Path

Defect = tuple[str, str]

_NOT_AUDIO = (b"<!doctype", b"<html", b"<?xml", b"<head", b"%pdf", b"pk\x03\x04")
# Sizes that writers of a stream leave in a 32-bit header, because they cannot go back: -1, INT_MAX and theirs less a header.
_PLACEHOLDERS = (range(0x7FFF_0000, 0x8000_0200), range(0xFFFF_0000, 0x1_0000_0200))
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def head_defect(head: bytes) -> Defect | None:
    """Judge a file's first 512 bytes: FFmpeg finds stray MPEG frames in a web page saved as an mp3 (a failed download)."""
    if not head:
        return "empty_file", "expected audio; got an empty file"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(_NOT_AUDIO) or (_is_text(head) and not head.startswith(b"NIST_1A")):
        return "not_audio", f"expected audio; got {head[:12]!r}..."
    return None


def _is_text(head: bytes) -> bool:
    utf16 = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    decoder = codecs.getincrementaldecoder("utf-16" if utf16 else "utf-8-sig")()
    try:
        return all(char.isprintable() or char.isspace() for char in decoder.decode(head))
    except UnicodeDecodeError:
        return False


def size_defect(log: str) -> Defect | None:
    """Read in libsndfile's log whether a wav, rf64, w64, aiff, caf or au header announces more bytes than the file has."""
    for announced, found in re.findall(r": (\d+) \(should be (\d+)\)", log):
        # Eight bytes less are a header that counts itself, or a pad byte left out.
        if int(announced) > int(found) + 8 and not any(int(announced) in sizes for sizes in _PLACEHOLDERS):
            return "truncated", f"expected {announced} bytes as its header says; got {found}"
    return None


def ogg_defect(path: Path) -> Defect | None:
    """Walk an Ogg file's pages (RFC 3533): each has its checksum, and the last is marked as the end of its stream."""
    ended = False
    with path.open("rb") as file:
        while (head := file.read(27)).startswith(b"OggS") and len(head) == 27:
            lacing = file.read(head[26])
            body = file.read(sum(lacing))
            if len(lacing) < head[26] or len(body) < sum(lacing):
                return "truncated", "expected a whole last page; got a part of one"
            if _ogg_checksum(head[:22] + bytes(4) + head[26:] + lacing + body) != int.from_bytes(head[22:26], "little"):
                return "damaged", f"expected pages with their checksums; got another one before byte {file.tell()}"
            ended = bool(head[5] & 4)
    if ended:
        return None
    if len(head) == 27:
        return "damaged", "expected pages side by side; got other data between two"
    return "truncated", "expected a last page that is marked as such; got none"


def _ogg_checksum(page: bytes) -> int:
    """CRC-32 of the usual polynomial, but most significant bit first and with no inversions: zlib's, turned around."""
    mirrored = zlib.crc32(page.translate(_REVERSED_BITS), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return int(f"{mirrored:032b}"[::-1], 2)


def mp3_start(path: Path) -> tuple[int, bool]:
    """Find an mp3's first frame, behind tags and zeros, and whether it is a Xing header that announces the length."""
    with path.open("rb") as file:
        start = 0
        while (head := file.read(10)).startswith(b"ID3") and len(head) == 10:
            size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
            start += 10 + size
            file.seek(start)
        head += file.read(1 << 17)
    frame = head.lstrip(b"\0")
    found = re.search(rb"(?:Xing|Info)\0\0\0(.)", frame[:200], re.DOTALL)
    return start + len(head) - len(frame), bool(found and found[1][0] & 1)


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
        self._at_end = whence == io.SEEK_END
        super().seek(offset + (self._start if whence == io.SEEK_SET else 0), whence)
        return self.tell()

    def tell(self) -> int:
        return (super().tell() - self._start) * (64 if self._at_end else 1)

    def share_read(self) -> float:
        """Tell how much of the file has been read, of 1."""
        size = Path(self.name).stat().st_size - self._start
        return (super().tell() - self._start) / size
