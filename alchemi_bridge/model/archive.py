"""Strict reading of the zip archive that a TorchScript file is; nothing in it is executed.

Zip readers disagree about malformed archives: which of two records of one name counts, which of two
central directories, what stands before or after the archive, whether names differ by case. A check
that reads an archive in one way is worth nothing if torch reads it in another. So this reader takes
only archives that leave no choice: the end records are the last bytes of the file, the central
directory ends where they begin, and the records follow each other from the first byte on, without
gap, overlap or duplicate. Everything that ``torch.jit.save`` writes is of this form.

Source: APPNOTE.TXT 6.3.10 (PKWARE); the reader that has to agree is miniz inside torch's
``PyTorchStreamReader``, which looks names up without regard to case, and which does not check the
checksums of what it reads; :meth:`Archive.verify` does.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from alchemi_bridge.errors import ModelLoadError, UntrustedModelError

_LOCAL = struct.Struct("<4s5H3I2H")  # local file header
_CENTRAL = struct.Struct("<4s6H3I5H2I")  # central directory entry
_END = struct.Struct("<4s4H2IH")  # end of central directory
_LOCATOR = struct.Struct("<4sIQI")  # zip64 locator
_END64 = struct.Struct("<4sQ2H2I4Q")  # zip64 end of central directory
_MAX16, _MAX32 = 0xFFFF, 0xFFFFFFFF
_STORED, _DEFLATED = 0, 8
_FLAG_DESCRIPTOR, _FLAG_UTF8 = 0x0008, 0x0800
_ALLOWED_FLAGS = _FLAG_DESCRIPTOR | _FLAG_UTF8 | 0x0006  # 0x0006: how hard the compressor tried
_DOS_FOLDER = 0x10  # in the external attributes
_CHUNK = 1 << 20
_MAX_RECORDS = 1_000_000
_MAX_DIRECTORY = 1 << 28  # bytes of central directory

_RE_EXPORT = "do not load it; get the file from its author again, or export the model again"


@dataclass(frozen=True)
class Record:
    """One record of the archive.

    Attributes
    ----------
    name
        Full name, with the leading folder.
    compressed
        True if deflated, False if stored as it is.
    crc
        CRC-32 of the content.
    stored_size, size
        Bytes in the file, and bytes of the content.
    header, start
        Offset of the local header, and of the first byte of data, in the file.
    flags
        General purpose flags of the zip format.
    """

    name: str
    compressed: bool
    crc: int
    stored_size: int
    size: int
    header: int
    start: int
    flags: int


def open_file(path: str | Path, label: str) -> io.BufferedReader:
    """Open a regular file for reading; ModelLoadError, with ``label`` in it, if that fails."""
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            got = "a folder" if stat.S_ISDIR(mode) else "a device or pipe"
            raise ModelLoadError(
                label,
                expected="a file",
                got=got,
                fix="name the file itself",
            )
        return open(path, "rb")
    except FileNotFoundError as error:
        raise ModelLoadError(
            label,
            expected="an existing file",
            got="no such file",
            fix="check the path",
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ModelLoadError(
            label, expected="a file that can be read", got=reason, fix="check path and permissions"
        ) from error


def sha256_of(stream: io.BufferedReader | io.BytesIO) -> str:
    """SHA-256 of a whole file, read piece by piece, as lower-case hexadecimal digits."""
    stream.seek(0)
    return hashlib.file_digest(stream, "sha256").hexdigest()


class Archive:
    """An open zip archive of the strict form described above.

    Parameters
    ----------
    stream
        Seekable binary file; it stays the caller's.
    label
        How messages name the file.

    Raises
    ------
    ModelLoadError
        If this is no zip archive, or a damaged one.
    UntrustedModelError
        If different zip readers could see different content.
    """

    def __init__(self, stream: BinaryIO, label: str) -> None:
        self._stream = stream
        self._label = label
        self._size = stream.seek(0, os.SEEK_END)
        self._directory_at, limit, count = self._directory()
        entries = list(self._entries(self._directory_at, limit, count))
        if not entries:
            raise self._damaged("an archive without records")
        self._check_names(entries)
        self.records: dict[str, Record] = {entry.name: entry for entry in entries}
        self._order = sorted(entries, key=lambda entry: entry.header)

    # --- the directory --------------------------------------------------------------------------

    def _directory(self) -> tuple[int, int, int]:
        """Offset and end of the central directory, and its number of entries."""
        end_at = self._size - _END.size
        if end_at < 0:
            raise self._damaged(f"a file of {self._size} bytes")
        end = _END.unpack(self._at(end_at, _END.size))
        if end[0] != b"PK\x05\x06" or end[7] != 0:
            self._explain_missing_end()
        _, disk, first_disk, here, count, length, offset, _ = end
        limit = end_at
        if end_at >= _LOCATOR.size + _END64.size:
            locator = _LOCATOR.unpack(self._at(end_at - _LOCATOR.size, _LOCATOR.size))
            if locator[0] == b"PK\x06\x07":
                limit = end_at - _LOCATOR.size - _END64.size
                count64, length64, offset64 = self._directory64(locator, limit)
                for small, large, top in (
                    (here, count64, _MAX16),
                    (count, count64, _MAX16),
                    (length, length64, _MAX32),
                    (offset, offset64, _MAX32),
                ):
                    if small not in (large, top):
                        raise self._ambiguous("two end records that contradict each other")
                here, count, length, offset = count64, count64, length64, offset64
        if disk or first_disk or here != count:
            raise self._ambiguous("an archive in several parts")
        if offset + length != limit:
            raise self._ambiguous("bytes before, after or between the parts of the archive")
        if count > _MAX_RECORDS or length > _MAX_DIRECTORY:
            raise self._ambiguous(f"a directory of {count} records, {length} bytes")
        return offset, limit, count

    def _directory64(self, locator: tuple, at: int) -> tuple[int, int, int]:
        end = _END64.unpack(self._at(at, _END64.size))
        # some readers follow the locator, others look right in front of it: both must meet
        if end[0] != b"PK\x06\x06" or locator[2] != at or end[1] != _END64.size - 12:
            raise self._ambiguous("a zip64 locator that points elsewhere than to the end record")
        if locator[1] or locator[3] != 1 or end[4] or end[5] or end[6] != end[7]:
            raise self._ambiguous("an archive in several parts")
        return end[7], end[8], end[9]

    def _explain_missing_end(self) -> None:
        tail_at = max(0, self._size - _MAX16 - _END.size)
        found = self._at(tail_at, self._size - tail_at).rfind(b"PK\x05\x06")
        if found < 0:
            raise self._damaged("no directory at its end: it is cut off, or no zip archive")
        extra = self._size - (tail_at + found + _END.size)
        raise self._ambiguous(f"{extra} bytes after the archive" if extra > 0 else "a cut-off end")

    def _entries(self, offset: int, limit: int, count: int) -> Iterator[Record]:
        data = self._at(offset, limit - offset)
        at = 0
        for _ in range(count):
            if at + _CENTRAL.size > len(data):
                raise self._damaged("a directory that is cut off")
            fields = _CENTRAL.unpack_from(data, at)
            if fields[0] != b"PK\x01\x02":
                raise self._damaged("a directory with a wrong signature")
            name_size, extra_size, comment_size = fields[10:13]
            at += _CENTRAL.size
            raw, extra = data[at : at + name_size], data[at + name_size :][:extra_size]
            if len(raw) != name_size or len(extra) != extra_size:
                raise self._damaged("a directory that is cut off")
            at += name_size + extra_size
            if comment_size or fields[13]:
                raise self._ambiguous("a record with a comment or in another part")
            yield self._entry(fields, raw, extra, offset)
        if at != len(data):
            raise self._ambiguous("a directory with more entries than it declares")

    def _entry(self, fields: tuple, raw: bytes, extra: bytes, limit: int) -> Record:
        flags, method, crc = fields[3], fields[4], fields[7]
        name = self._decode(raw, flags)
        stored_size, size, header = self._sizes64(fields[8], fields[9], fields[16], extra)
        if flags & ~_ALLOWED_FLAGS or method not in (_STORED, _DEFLATED):
            raise self._ambiguous(f"record {name!r} with flags {flags:#x} and method {method}")
        if fields[15] & _DOS_FOLDER or name.endswith("/"):
            # torch reads nothing then, and hands on whatever was in memory
            raise self._ambiguous(f"record {name!r}, which is marked as a folder")
        if method == _STORED and stored_size != size:
            raise self._ambiguous(f"record {name!r} with two different sizes")
        if header + _LOCAL.size > limit:
            raise self._damaged(f"record {name!r} beyond the end of the data")
        local = _LOCAL.unpack(self._at(header, _LOCAL.size))
        start = header + _LOCAL.size + local[9] + local[10]
        if start + stored_size > limit:
            raise self._damaged(f"record {name!r} beyond the end of the data")
        same_name = self._at(header + _LOCAL.size, local[9]) == raw
        if local[0] != b"PK\x03\x04" or not same_name or (local[2], local[3]) != (flags, method):
            raise self._ambiguous(f"record {name!r} described in two different ways")
        for in_header, in_directory in zip(local[6:9], (crc, stored_size, size), strict=True):
            # zero where a descriptor follows the data, all ones where the field is too small
            postponed = in_header in (0, _MAX32) and (flags & _FLAG_DESCRIPTOR or in_header)
            if in_header != in_directory and not postponed:
                raise self._ambiguous(f"record {name!r} described in two different ways")
        return Record(name, method == _DEFLATED, crc, stored_size, size, header, start, flags)

    def _sizes64(self, stored: int, size: int, header: int, extra: bytes) -> tuple[int, int, int]:
        if _MAX32 not in (stored, size, header):
            return stored, size, header
        while len(extra) >= 4:
            kind, length = struct.unpack_from("<2H", extra)
            if kind == 1:
                wide = [value == _MAX32 for value in (size, stored, header)]
                if length != 8 * sum(wide) or length + 4 > len(extra):
                    raise self._ambiguous("a record with a malformed zip64 field")
                values = iter(struct.unpack_from(f"<{sum(wide)}Q", extra, 4))
                size, stored, header = (
                    next(values) if is_wide else value
                    for is_wide, value in zip(wide, (size, stored, header), strict=True)
                )
                return stored, size, header
            extra = extra[4 + length :]
        raise self._ambiguous("a record that needs a zip64 field and has none")

    def _decode(self, raw: bytes, flags: int) -> str:
        try:
            name = raw.decode("utf-8" if flags & _FLAG_UTF8 else "ascii")
        except UnicodeDecodeError as error:
            raise self._ambiguous(f"a record with the undecodable name {raw!r}") from error
        if not name.isprintable() or "\\" in name:
            raise self._ambiguous(f"a record with the name {name!r}")
        return name

    def _check_names(self, entries: list[Record]) -> None:
        seen: dict[str, str] = {}
        for entry in entries:
            other = seen.setdefault(entry.name.lower(), entry.name)
            if other != entry.name:
                raise self._ambiguous(f"records {other!r} and {entry.name!r}, equal but for case")
        if len(seen) != len(entries):
            names = [entry.name for entry in entries]
            twice = next(name for name in names if names.count(name) > 1)
            raise self._ambiguous(f"two records named {twice!r}")

    # --- the content ----------------------------------------------------------------------------

    def check_layout(self) -> None:
        """Raise UntrustedModelError unless the records fill the file from its first byte on."""
        expected = 0
        following = [entry.header for entry in self._order[1:]] + [self._directory_at]
        for entry, next_at in zip(self._order, following, strict=True):
            if entry.header != expected:
                raise self._ambiguous(f"{entry.header - expected} bytes before {entry.name!r}")
            end = entry.start + entry.stored_size
            gap = next_at - end
            if gap and not (gap > 0 and self._is_descriptor(entry, end, gap)):
                raise self._ambiguous(f"bytes that belong to no record after {entry.name!r}")
            expected = next_at

    def _is_descriptor(self, entry: Record, at: int, gap: int) -> bool:
        if not entry.flags & _FLAG_DESCRIPTOR:
            return False
        values = (entry.crc, entry.stored_size, entry.size)
        forms = {16: "<4s3I", 24: "<4sI2Q"}
        if gap not in forms:
            return False
        try:
            return struct.pack(forms[gap], b"PK\x07\x08", *values) == self._at(at, gap)
        except struct.error:  # a size that does not fit into 32 bits
            return False

    def read(self, name: str, *, limit: int) -> bytes:
        """Content of one record, its checksum verified.

        Raises
        ------
        UntrustedModelError
            If the content is larger than ``limit`` bytes.
        ModelLoadError
            If the record is damaged.
        """
        entry = self.records[name]
        if max(entry.size, entry.stored_size) > limit:
            raise UntrustedModelError(
                f"{self._label}, record {name!r}",
                expected=f"at most {limit} bytes",
                got=f"{max(entry.size, entry.stored_size)} bytes",
                fix=_RE_EXPORT,
            )
        data = self._at(entry.start, entry.stored_size)
        if entry.compressed:
            inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                data = inflate.decompress(data, entry.size + 1)
            except zlib.error as error:
                raise self._damaged(f"record {name!r} that can not be inflated") from error
            if len(data) != entry.size or not inflate.eof or inflate.unused_data:
                raise self._damaged(f"record {name!r} of another size than declared")
        if zlib.crc32(data) != entry.crc:
            raise self._damaged(f"record {name!r} with a wrong checksum")
        return data

    def verify(self, name: str) -> None:
        """Compare the checksum of a stored record of any size, without holding it in memory."""
        entry = self.records[name]
        if entry.compressed:
            raise self._ambiguous(f"compressed tensor data in record {name!r}")
        self._stream.seek(entry.start)
        left, crc = entry.stored_size, 0
        while left:
            chunk = self._stream.read(min(left, _CHUNK))
            if not chunk:
                raise self._damaged(f"record {name!r} that is cut off")
            crc = zlib.crc32(chunk, crc)
            left -= len(chunk)
        if crc != entry.crc:
            raise self._damaged(f"record {name!r} with a wrong checksum")

    # --- helpers --------------------------------------------------------------------------------

    def _at(self, offset: int, length: int) -> bytes:
        self._stream.seek(offset)
        data = self._stream.read(length)
        if len(data) != length:
            raise self._damaged("a file that ends too early")
        return data

    def _damaged(self, got: str) -> ModelLoadError:
        return ModelLoadError(
            self._label,
            expected="a complete zip archive, as torch.jit.save writes it",
            got=got,
            fix="copy or download the file again; if it is no better, export the model again",
        )

    def _ambiguous(self, got: str) -> UntrustedModelError:
        return UntrustedModelError(
            self._label,
            expected="a zip archive that every reader understands in the same way",
            got=got,
            fix=_RE_EXPORT,
        )
