"""A table of WordNet synsets: their names and what they are kinds of.

Class folders of ImageNet are named by synset: ``n`` and the eight digits of its offset in WordNet 3.0
(a *wnid*). The shipped table has the classes of ILSVRC-2012 and Tiny ImageNet, all that lies below
the five nodes of Oquab et al. (2014), and what these are kinds of. ``tools/make_synsets.py`` makes
it, or a larger one, from the folder of a WordNet.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from importlib.resources import files
from pathlib import Path

from pipeline.io.errors import DatasetError, MissingDataError
from pipeline.io.messages import brief, enumerate_problems

WNID = re.compile(r"n\d{8}")
PAPER_NODES = ("hoofed mammal", "furniture", "motor vehicle", "public transport", "bicycle")
"""What PRE-1512 adds to the 1,000 classes of ILSVRC-2012, with all below (section 4)."""


@dataclass(frozen=True)
class Synsets:
    """Nouns of WordNet as a graph.

    Attributes
    ----------
    names : wnid -> its names, the most usual one first
    parents : wnid -> wnids of which it is a kind, or an instance; mostly one
    """

    names: dict[str, tuple[str, ...]]
    parents: dict[str, tuple[str, ...]]

    @cached_property
    def _named(self) -> dict[str, list[str]]:
        found = defaultdict(list)
        for wnid, names in self.names.items():
            for name in names:
                found[name.lower()].append(wnid)
        return dict(found)

    @cached_property
    def _children(self) -> dict[str, list[str]]:
        found = defaultdict(list)
        for wnid, parents in self.parents.items():
            for parent in parents:
                found[parent].append(wnid)
        return dict(found)

    def find(self, nodes: Iterable[str]) -> list[str]:
        """Wnids of nodes given by name (in any case) or by wnid.

        Raises
        ------
        DatasetError
            Names that are not in the table, with the closest ones, or that several synsets have: all at once.
        """
        found, problems = [], []
        for node in nodes:
            wnids = [node] if node in self.names else self._named.get(" ".join(node.lower().split()), [])
            if len(wnids) == 1:
                found += wnids
            elif wnids:
                ways = "; ".join(f"{wnid}, a kind of {self._kind(wnid)}" for wnid in wnids)
                problems.append(f"{brief(node)} names {len(wnids)} synsets; give one by its number: {ways}")
            else:
                close = get_close_matches(node.lower(), self._named, n=5, cutoff=0.6)
                close += [name for name in self._named if node.lower() in name and name not in close][: 5 - len(close)]
                hint = f"; close: {', '.join(close)}" if close else ""
                problems.append(f"{brief(node)} is not among the {len(self.names):,} synsets of the table{hint}")
        if problems:
            raise DatasetError(f"unknown WordNet nodes\n{enumerate_problems(problems)}")
        return found

    def _kind(self, wnid: str) -> str:
        return ", ".join(self.names[parent][0] for parent in self.parents[wnid]) or "nothing"

    def below(self, wnid: str) -> set[str]:
        """A synset and all that are kinds of it, at any depth."""
        found, waiting = {wnid}, [wnid]
        while waiting:
            for child in self._children.get(waiting.pop(), []):
                if child not in found:
                    found.add(child)
                    waiting.append(child)
        return found


def read_synsets(path: Path | None = None) -> Synsets:
    """Read a table: ``wnid TAB names, divided by comma and blank TAB parents, divided by blanks``; # begins a comment.

    Parameters
    ----------
    path : None for the shipped table

    Raises
    ------
    MissingDataError, DatasetError
        No such file; lines of another form, or parents that are not in the table: all are named.
    """
    where = path or files("pipeline.trunk.pretrain") / "wordnet.tsv"
    if not where.is_file():
        raise MissingDataError(f"{where}: no such table of synsets; tools/make_synsets.py makes one from a WordNet")
    names: dict[str, tuple[str, ...]] = {}
    parents: dict[str, tuple[str, ...]] = {}
    problems = []
    try:
        lines = where.read_bytes().decode("utf-8").splitlines()
    except ValueError as error:
        raise DatasetError(f"{where}: not text in UTF-8: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        wnid, *columns = line.split("\t")
        if not WNID.fullmatch(wnid) or len(columns) != 2 or not columns[0] or wnid in names:
            problems.append(f"line {number}: {brief(line)}")
            continue
        names[wnid] = tuple(columns[0].split(", "))
        parents[wnid] = tuple(columns[1].split())
    problems += [f"{w}: its parent {p} is not in the table" for w in parents for p in parents[w] if p not in names]
    if problems:
        raise DatasetError(
            f"{where}: not a table of synsets; expected lines of wnid, names and parents with tabs between, "
            f"each wnid once\n"
            f"{enumerate_problems(problems)}"
        )
    return Synsets(names, parents)
