"""Detection of files whose content does not fit their name, by their first bytes.

By hand, since python-magic needs the C library libmagic, which pip does not install.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from mtlcli.config.formats import ending
from mtlcli.errors import Problem

LOOKED_AT = 4096
"""Number of bytes at the beginning of a file that are enough to recognise its format."""
PACKED = {
    "gz": rb"\x1f\x8b",
    "bz2": rb"BZh[1-9]1AY",
    "xz": rb"\xfd7zXZ\0",
    "zst": rb"\x28\xb5\x2f\xfd",
}
PARQUET = rb"PAR1[\0-\x1f]"
SHEET = "save the sheet as csv in UTF-8 from the program that made it"
ARCHIVE = "unpack it, and name a data file in it"
CONVERT = "write its rows as parquet, csv, tsv or jsonl"
OTHERS = (
    (
        rb"PK\x03\x04.{26}(\[Content_Types\]|_rels/|xl/|mimetypeapplication/vnd\.oasis)",
        "an Excel sheet or another document",
        SHEET,
    ),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel sheet or Word document", SHEET),
    (rb"PK(\x03\x04|\x05\x06)", "a zip archive", ARCHIVE),
    (rb"7z\xbc\xaf\x27\x1c|Rar!\x1a\x07|.{257}ustar", "an archive", ARCHIVE),
    (
        rb"ARROW1\0\0",
        "an Arrow (Feather) file",
        f"{CONVERT}, for example with pandas: read_feather(...).to_parquet(...)",
    ),
    (rb"\x80[\x02-\x05]", "a pickle", f"{CONVERT}: mtl reads no pickles, which can run any code"),
    (rb"\x93NUMPY", "a numpy array", CONVERT),
    (rb"SQLite format 3\0", "an SQLite database", CONVERT),
    (rb"\x89HDF\r\n\x1a\n", "an HDF5 file", CONVERT),
    (rb"ORC.*\0", "an ORC file", CONVERT),
    (rb"Obj\x01", "an Avro file", CONVERT),
    (rb"%PDF-", "a PDF document", CONVERT),
    (
        rb"(?i:\s*<(!doctype html|html)\b)",
        "a web page",
        "the download went wrong: open its address in a browser, and save the file itself",
    ),
    (
        rb"version https://git-lfs",
        "a pointer of Git LFS, not the file itself",
        "type git lfs pull in its repository",
    ),
)


def real_kind(head: bytes, path: Path, *, unpacked: bool = False) -> Problem | None:
    """Return the problem of a file whose content is of another format than its name says, or None
    where its first bytes do not contradict the name.

    `head`: the first LOOKED_AT bytes of the file, or, if `unpacked`, of the content that is
    compressed in it.
    """
    plain, _, packing = ending(path).partition(".")
    packed = next((name for name, start in PACKED.items() if _begins(head, start)), "")
    if packed and unpacked:
        return Problem(
            f"the file is compressed twice, the second time as {packed}",
            str(path),
            "unpack it once",
        )
    if packed and packed == packing:
        return None
    if packed and plain == "parquet":
        return Problem(f"the file is not parquet but compressed ({packed})", str(path), ARCHIVE)
    if packed:
        return _misnamed(f"compressed ({packed})", path, f"{plain}.{packed}")
    if _begins(head, PARQUET):
        return (
            None if plain == "parquet" else _misnamed("parquet", path, "parquet", unpack=unpacked)
        )
    for start, what, fix in OTHERS:
        if _begins(head, start):
            return Problem(f"the file is {what}", str(path), fix)
    if not _is_text(head):
        return None
    if packing and not unpacked:
        return _misnamed("not compressed", path, plain)
    if plain.startswith("conll") or plain == "txt":
        return None  # Any text may be a word, or a row.
    text = _format_of(head.decode(errors="ignore").lstrip("\ufeff"))
    if plain == "parquet" and not text:
        return Problem(
            "the file is text, not parquet",
            str(path),
            "let its name end in .csv, .tsv, .jsonl or .json, whichever it is",
        )
    if text and (plain == "parquet" or text.startswith("json") != plain.startswith("json")):
        return _misnamed(f"{text}, not {plain}", path, f"{text}.{packing}".rstrip("."))
    return None


def _begins(head: bytes, start: bytes) -> bool:
    return re.match(start, head, re.DOTALL) is not None


def _is_text(head: bytes) -> bool:
    return bool(head.strip()) and b"\0" not in head


def _format_of(text: str) -> str:
    """Return `json`, `jsonl`, `csv` or `tsv`, guessed from the first line, or an empty string where
    the line fits several formats."""
    first = text.lstrip().partition("\n")[0].strip()
    if re.match(r'(\[\s*)?\{\s*("|$)|\[$', first):
        return "jsonl" if first.startswith("{") and first.endswith("}") else "json"
    if re.search(r"[{\[]", first):
        return ""
    return "tsv" if "\t" in first else "csv" if "," in first else ""


def _misnamed(what: str, path: Path, kind: str, *, unpack: bool = False) -> Problem:
    """Return the problem that the file is `what`, with the advice to rename it so that its name
    ends in `kind`."""
    new = f"{path.name[: -len(ending(path)) - 1]}.{kind}"
    fix = f"let its name end in .{kind}: mv {shlex.quote(path.name)} {shlex.quote(new)}"
    return Problem(
        f"the file is {what}",
        str(path),
        f"unpack it, and let its name end in .{kind}" if unpack else fix,
    )
