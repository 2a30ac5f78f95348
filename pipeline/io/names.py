"""Names as users, file systems and XML write them: as ids, as parts of file names, and compared."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import unicodedata
from collections.abc import Iterable

MAX_PART_BYTES = 200
"""Of a file's name, which may have 255 on most file systems."""
NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?(e[+-]?[0-9]+)?")
"""Names that are numbers, in lower case."""


def make_file_part(name: str, keep: str, *, ascii_only: bool = False, merge: bool = False) -> str:
    """Replace by ``-`` every character that is no letter or digit and not in `keep`.

    Parameters
    ----------
    ascii_only : letters and digits of ASCII alone count as such
    merge : several ``-`` in a row become one

    >>> make_file_part("timm/vit@norm:tokens", "._+"), make_file_part("out/my trunk (2)", "_.+", merge=True)
    ('timm-vit-norm-tokens', 'out-my-trunk-2-')
    """
    part = "".join(c if c in keep or (c.isalnum() and (c.isascii() or not ascii_only)) else "-" for c in name)
    return re.sub("-+", "-", part) if merge else part


def make_distinct_part(name: str) -> str:
    """Make a part of a file name from any name; different names have different parts.

    A name that every file system can hold is its own part. Any other, or a long one, ends in a digest of the name.

    >>> make_distinct_part("hot dog (2)"), make_distinct_part("cam1/x")
    ('hot dog (2)', 'cam1-x-a91e6e58')
    """
    part = re.sub(r'[\x00-\x1f\x7f-\x9f\ud800-\udfff/\\:*?"<>|]|^[.-]|[. ]$', "-", name)
    if part == name and part and len(part.encode()) <= MAX_PART_BYTES:
        return part
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
    while len(part.encode()) > MAX_PART_BYTES:
        part = part[: len(part) * 3 // 4]
    return f"{part}-{digest}"


def show_name(name: str) -> str:
    r"""Return a file's name as UTF-8 can hold it: bytes that are not UTF-8 as ``\xe9``.

    Python reads such bytes as halves of characters, which no digest, database or terminal takes.

    >>> show_name("caf\udce9.jpg") == r"caf\xe9.jpg"
    True
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def expand_home(path: str) -> str:
    """Expand ``~`` and ``~user`` at the beginning of a path: shells leave it in ``--cache=~/x`` and in YAML files.

    A folder that is really named so is written ``./~``.

    Raises
    ------
    ValueError
        There is no such user, or no home folder is known.
    """
    if not path.startswith("~"):
        return path
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        user = path.partition("/")[0]
        raise ValueError(f"{path}: there is no home folder {user}; a folder of this name is written ./{path}")
    return expanded


def write_as_setting(path: str) -> str:
    """Return a path so that `expand_home` leaves it as it is: a folder whose name begins with ``~`` is no home.

    >>> write_as_setting("~x/cache"), write_as_setting("cache")
    ('./~x/cache', 'cache')
    """
    return f"./{path}" if path.startswith("~") else path


def is_word(character: str) -> bool:
    """Whether a character is a letter, a digit, or a mark on a letter: vowels of many scripts are marks."""
    return character.isalnum() or unicodedata.category(character).startswith("M")


def normalise(text: str) -> str:
    """Return Unicode's composed form (NFC) of a name: macOS writes file names decomposed."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def is_readable(text: str) -> bool:
    """Whether a name is Unicode text; bytes of a file name that are not UTF-8 are surrogates."""
    return not re.search("[\ud800-\udfff]", text)


def explain_encoding(names: Iterable[str]) -> str | None:
    """Return what is wrong where Python reads the names of files otherwise than as UTF-8, and one of `names` needs it.

    None where all is well: the encoding is UTF-8, as under nearly all locales, or the names are ASCII.
    """
    encoding = sys.getfilesystemencoding().lower()
    if encoding in ("utf-8", "utf8") or all(map(str.isascii, names)):
        return None
    return (
        f"names beyond ASCII, and Python reads names of files as {encoding} here, which are UTF-8; start it again with "
        "PYTHONUTF8=1 in the environment"
    )


def find_alike(names: Iterable[str]) -> list[list[str]]:
    """Group names that differ in case, spaces, invisible characters or Unicode's form alone, and those of one number.

    Returns
    -------
    Groups of two or more names.

    >>> find_alike(["dog", "cat", "Dog", "1", "01", "1.0"])
    [['dog', 'Dog'], ['1', '01', '1.0']]
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        visible = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
        plain = " ".join(visible.casefold().split())
        groups.setdefault(str(float(plain)) if NUMBER.fullmatch(plain) else plain, []).append(name)
    return [group for group in groups.values() if len(group) > 1]
