"""The source of a function as it travels and is stored: a zip archive of plain files, and a hash over their contents.

A version is named by the hash of its files, not of the archive: archives of the same files may differ, as compressors
do. An archive may come from anywhere, so whatever is no plain file below the folder is refused before it is read, and
no more is inflated than the limits allow.
"""

from __future__ import annotations

import hashlib
import io
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from dts.errors import InvalidInput, TooLarge

MAX_ARCHIVE = 10 * 1024 * 1024
"""Bytes of an archive."""

MAX_SOURCE = 64 * 1024 * 1024
"""Bytes of all its files together, uncompressed."""

MAX_FILES = 2000
MAX_NAME = 200
"""Characters of a file's path in the archive; host file systems take 255 bytes for each part of it."""

SHORT = 12
"""Digits of a version's hash that results and tables show."""

_MAX_DIRECTORY = MAX_FILES * (46 + 4 * MAX_NAME + 64)
"""Bytes of an archive's list of files, which zipfile reads whole: a header, a name in UTF-8 and some extra fields."""

_END = struct.Struct("<4s4H2LH")  # APPNOTE.TXT 4.3.16
_END_MARK = b"PK\x05\x06"
_END_REACH = _END.size + 0xFFFF  # the end may be followed by a comment
_VERSION = re.compile(r"[0-9a-f]{64}")
_PREFIX = re.compile(r"[0-9a-f]{4,64}")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date of a zip archive


class SourceFile(NamedTuple):
    """One file: its content, and whether it is a program."""

    data: bytes
    executable: bool = False


Source = Mapping[str, SourceFile]
"""The files of a version by their paths below its folder, with slashes."""


def is_version(text: object) -> bool:
    """Whether a text is the whole hash of a version."""
    return isinstance(text, str) and _VERSION.fullmatch(text) is not None


def is_version_prefix(text: object) -> bool:
    """Whether a text is the hash of a version or its first digits, at least four."""
    return isinstance(text, str) and _PREFIX.fullmatch(text) is not None


def version_of(source: Source) -> str:
    """The hash that names a version: SHA-256 over the paths, modes and contents of its files, in hex."""
    total = hashlib.sha256(b"dts-source-1\n")
    for name in sorted(source):
        data, executable = source[name]
        total.update(f"{name}\0{'x' if executable else '-'}{hashlib.sha256(data).hexdigest()}\n".encode())
    return total.hexdigest()


def check_name(name: str) -> str:
    """Return the path of a file if it may be in an archive.

    Raises:
        InvalidInput: it leads out of the folder, or no host can be trusted to create it as it is.
    """
    parts = name.split("/")
    fault = ""
    if not name or name.startswith("/") or ".." in parts:
        fault = "it leads out of the folder"
    elif "" in parts or "." in parts:
        fault = "it has an empty part"
    elif len(name) > MAX_NAME or len(name.encode(errors="replace")) > 4 * MAX_NAME or max(map(len, parts)) > 100:
        fault = f"it is longer than {MAX_NAME} characters, or a part of it than 100"
    elif not name.isprintable() or "\\" in name or ":" in name:
        fault = "it has a character that file names here may not have"
    if fault:
        raise InvalidInput(f"the file {name[:80]!r} cannot be part of a function: {fault}")
    return name


def pack(source: Source) -> bytes:
    """An archive of these files.

    Raises:
        InvalidInput, TooLarge: they cannot be a version: see `check_source`.
    """
    check_source(source)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name in sorted(source):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3  # Unix, whose modes are in external_attr
            info.external_attr = (stat.S_IFREG | (0o755 if source[name].executable else 0o644)) << 16
            archive.writestr(info, source[name].data)
    data = target.getvalue()
    if len(data) > MAX_ARCHIVE:
        raise TooLarge(
            f"the source has {len(data)} bytes when compressed and the limit is {MAX_ARCHIVE}: keep models and data "
            "out of the folder, and have the function read them from where they are"
        )
    return data


def check_source(source: Source) -> None:
    """Make sure that files can be a version.

    Raises:
        InvalidInput: a name is not allowed, or a file stands where another one needs a folder.
        TooLarge: they are too many or too large.
    """
    _check_size(len(source), sum(len(each.data) for each in source.values()))
    for name in source:
        check_name(name)
        folders = name.split("/")[:-1]
        for depth in range(1, len(folders) + 1):
            if (folder := "/".join(folders[:depth])) in source:
                raise InvalidInput(f"the archive has {folder!r} as a file and as a folder")


def unpack(data: bytes) -> dict[str, SourceFile]:
    """The files of an archive.

    Raises:
        InvalidInput: it is no zip archive, or has something else in it than plain files below its folder.
        TooLarge: it, or what is in it, is over a limit; found out without inflating more than that.
    """
    if len(data) > MAX_ARCHIVE:
        raise TooLarge(f"the archive has {len(data)} bytes and the limit is {MAX_ARCHIVE}")
    _check_directory(data)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _files(archive)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, RuntimeError, ValueError) as error:
        raise InvalidInput(f"the source is not a valid zip archive: {error}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput("the archive has a file name that is not UTF-8") from error


def _check_directory(data: bytes) -> None:
    """Make sure that the list of files is small enough to be read."""
    at = data.rfind(_END_MARK, max(0, len(data) - _END_REACH))
    if at < 0 or len(data) - at < _END.size:
        raise InvalidInput("the source is not a zip archive")
    _, disk, _, _, count, size, offset, _ = _END.unpack_from(data, at)
    if disk or 0xFFFF in (count, disk) or 0xFFFFFFFF in (size, offset):
        raise InvalidInput("the archive is in several volumes or of the ZIP64 kind: make a plain one")
    if count > MAX_FILES or size > _MAX_DIRECTORY:
        raise TooLarge(f"the archive lists more than {MAX_FILES} files, or has too long a list of them")


def _files(archive: zipfile.ZipFile) -> dict[str, SourceFile]:
    infos = [info for info in archive.infolist() if not _is_folder(info)]
    _check_size(len(infos), sum(info.file_size for info in infos))
    files: dict[str, SourceFile] = {}
    left = MAX_SOURCE
    for info in infos:
        name = check_name(info.orig_filename)
        if name in files:
            raise InvalidInput(f"the archive has the file {name!r} twice")
        _check_kind(info)
        with archive.open(info) as member:
            content = member.read(left + 1)  # whatever size it announces
        left -= len(content)
        if left < 0:
            raise _too_large()
        files[name] = SourceFile(content, bool(info.external_attr >> 16 & 0o100))
    check_source(files)
    return files


def _is_folder(info: zipfile.ZipInfo) -> bool:
    """Whether an entry is a folder, which is made anyway for the files in it; its name is checked like any other."""
    if not info.orig_filename.endswith("/") or info.file_size:
        return False
    check_name(info.orig_filename.removesuffix("/"))
    return True


def _check_kind(info: zipfile.ZipInfo) -> None:
    mode = info.external_attr >> 16
    if info.flag_bits & 0x1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InvalidInput(f"the file {info.orig_filename[:80]!r} is encrypted or not deflated")
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        kind = "a symbolic link" if stat.S_ISLNK(mode) else "no plain file"
        raise InvalidInput(f"{info.orig_filename[:80]!r} is {kind}: only plain files can be part of a function")


def _check_size(count: int, size: int) -> None:
    if count > MAX_FILES:
        raise TooLarge(f"{count} files are over the limit of {MAX_FILES}")
    if size > MAX_SOURCE:
        raise _too_large()


def _too_large() -> TooLarge:
    return TooLarge(f"the files have more than {MAX_SOURCE} bytes together when uncompressed, which is the limit")
