"""Choose the classes of a source task: all, some at random, or a base list and all below WordNet nodes.

Source: Oquab et al. (2014) section 4: PRE-1000C, PRE-1000R and PRE-1512.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.io.errors import DatasetError, MissingDataError
from pipeline.io.messages import enumerate_problems
from pipeline.io.progress import Say, silent
from pipeline.trunk.pretrain.synsets import WNID, read_synsets
from pipeline.trunk.settings import RANDOM_CLASSES, ClassSelection


def choose_at_random(there: Sequence[str], n: int, seed: int) -> tuple[str, ...]:
    """Choose `n` classes by a hash of name and seed; one available class more or less changes at most one of them.

    >>> choose_at_random(["n1", "n2", "n3", "n4"], 2, seed=0)
    ('n1', 'n3')
    """
    if n > len(there):
        raise DatasetError(f"random:{n}: there are {len(there)} classes only")
    ranked = sorted(there, key=lambda name: (hashlib.sha256(f"class {seed} {name}".encode()).digest(), name))
    return tuple(sorted(ranked[:n]))


def read_class_list(path: Path) -> tuple[str, ...]:
    """Read the names at the beginning of each line, up to the first blank; # begins a comment.

    Raises
    ------
    MissingDataError, DatasetError
        No such file; not text, or empty.
    """
    if not path.is_file():
        raise MissingDataError(f"{path}: no such list of classes; expected a file with one name a line, or random:N")
    try:
        lines = path.read_bytes().decode("utf-8").splitlines()
    except ValueError as error:
        raise DatasetError(f"{path}: not text in UTF-8: {error}") from error
    names = dict.fromkeys(line.split()[0] for line in lines if line.strip() and not line.startswith("#"))
    if not names:
        raise DatasetError(f"{path}: an empty list of classes")
    return tuple(names)


def select_classes(there: Sequence[str], selection: ClassSelection, say: Say = silent) -> tuple[str, ...]:
    """Choose the classes of a source task among the available ones.

    Parameters
    ----------
    there : names of class folders; for ``nodes`` wnids such as ``n02084071``
    say : receives messages on nodes without classes and on folders that are not in the table of synsets

    Returns
    -------
    tuple of str, sorted, at least two

    Raises
    ------
    DatasetError
        Fewer than two are left; more are asked for at random than there are; names of the base list
        without a folder, or unknown nodes: all are named.
    """
    chosen = set(there)
    if selection.select == "nodes":
        chosen = set(_base_list(there, selection.base)) if selection.base else set()
        chosen |= _below_nodes(there, selection, say)
    elif selection.select != "all":
        chosen = set(_at_random(there, selection.select))
    if len(chosen) < 2:
        raise DatasetError(
            f"the selection leaves {len(chosen)} of {len(there)} classes, expected at least 2; "
            "name other nodes with --below, or a longer --base"
        )
    return tuple(sorted(chosen))


def _at_random(there: Sequence[str], text: str) -> tuple[str, ...]:
    match = re.fullmatch(RANDOM_CLASSES, text)
    assert match is not None  # `ClassSelection` and the callers see to that
    n, seed = match.groups()
    return choose_at_random(there, int(n), int(seed or 0))


def _base_list(there: Sequence[str], base: str) -> tuple[str, ...]:
    if re.fullmatch(RANDOM_CLASSES, base):
        return _at_random(there, base)
    listed = read_class_list(Path(base).expanduser())
    missing = sorted(set(listed) - set(there))
    if missing:
        raise DatasetError(f"{base}: {len(missing)} of {len(listed)} have no folder\n{enumerate_problems(missing)}")
    return listed


def _below_nodes(there: Sequence[str], selection: ClassSelection, say: Say) -> set[str]:
    synsets = read_synsets(Path(selection.wordnet).expanduser() if selection.wordnet else None)
    unknown = [name for name in there if name not in synsets.names]
    if unknown:
        # Else a table that is too small for the folder would look like nodes without classes.
        synset_like = sum(bool(WNID.fullmatch(name)) for name in unknown)
        say(
            f"NOTE: {len(unknown)} of {len(there)} class folders are not in the table of synsets "
            f"({synset_like} of them look like synsets; first: {unknown[0]}), so they lie below no node; "
            "give a larger table with --wordnet FILE (tools/make_synsets.py makes one)"
        )
    chosen: set[str] = set()
    for node, wnid in zip(selection.below, synsets.find(selection.below), strict=True):
        found = synsets.below(wnid).intersection(there)
        chosen |= found
        say(f"{node} ({wnid}): {len(found)} classes")
    return chosen
