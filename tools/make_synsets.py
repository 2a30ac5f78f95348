"""Make a table of synsets, as ``pipeline pretrain --wordnet`` takes it, from the folder of a WordNet 3.0.

    python tools/make_synsets.py /usr/share/wordnet > all.tsv
    python tools/make_synsets.py /usr/share/wordnet --paper --classes tiny.txt --classes ilsvrc2012.txt \\
        > pipeline/trunk/pretrain/wordnet.tsv

The folder holds ``data.noun`` (on Debian the package wordnet-base brings it). Without options the table
has every noun, which takes 6 MB; with ``--classes`` (lists of wnids, one a line), ``--below`` and
``--paper`` only those, and all that they are kinds of. Offsets differ between versions of WordNet:
class folders of ImageNet are named after 3.0.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from pipeline.trunk.pretrain.classes import read_class_list
from pipeline.trunk.pretrain.synsets import PAPER_NODES, Synsets

KIND_OF = ("@", "@i")  # hypernym, and hypernym of an instance


def read_nouns(path: Path) -> tuple[Synsets, list[str]]:
    """Names and parents of all nouns of a ``data.noun``, and the notice at its beginning."""
    names, parents, notice = {}, {}, []
    for line in path.read_text(encoding="latin-1").splitlines():
        if line.startswith("  "):
            notice.append(line.split(maxsplit=1)[1].rstrip() if len(line.split()) > 1 else "")
            continue
        # offset file type n_names (name sense)... n_pointers (symbol offset type places)... | gloss
        fields = iter(line.partition(" | ")[0].split())
        wnid = f"n{next(fields)}"
        next(fields), next(fields)
        names[wnid] = tuple(_names(fields, int(next(fields), 16)))
        parents[wnid] = tuple(_parents(fields, int(next(fields))))
    return Synsets(names, parents), notice


def _names(fields: Iterator[str], n: int) -> Iterator[str]:
    for _ in range(n):
        yield next(fields).replace("_", " ")
        next(fields)


def _parents(fields: Iterator[str], n: int) -> Iterator[str]:
    for _ in range(n):
        symbol, offset, part_of_speech, _ = next(fields), next(fields), next(fields), next(fields)
        if symbol in KIND_OF and part_of_speech == "n":
            yield f"n{offset}"


def with_ancestors(synsets: Synsets, wnids: set[str]) -> set[str]:
    found, waiting = set(wnids), list(wnids)
    while waiting:
        for parent in synsets.parents[waiting.pop()]:
            if parent not in found:
                found.add(parent)
                waiting.append(parent)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with data.noun of WordNet 3.0")
    parser.add_argument("--classes", type=Path, action="append", default=[], help="list of wnids; may be repeated")
    parser.add_argument("--below", action="append", default=[], help="node by name or wnid; may be repeated")
    parser.add_argument("--paper", action="store_true", help=f"the paper's nodes: {', '.join(PAPER_NODES)}")
    arguments = parser.parse_args()
    synsets, notice = read_nouns(arguments.folder / "data.noun")
    listed = {name for path in arguments.classes for name in read_class_list(path)}
    unknown = sorted(listed - synsets.names.keys())
    if unknown:
        parser.error(f"{len(unknown)} listed classes are no nouns of this WordNet (first: {unknown[0]})")
    wanted = set(listed)
    for wnid in synsets.find([*arguments.below, *(PAPER_NODES if arguments.paper else ())]):
        wanted |= synsets.below(wnid)
    wanted = with_ancestors(synsets, wanted) or set(synsets.names)
    for line in ("Names and parents of synsets, derived from WordNet 3.0, whose notice follows.", "", *notice):
        print(f"# {line}".rstrip())
    for wnid in sorted(wanted):
        print(wnid, ", ".join(synsets.names[wnid]), " ".join(synsets.parents[wnid]), sep="\t")


if __name__ == "__main__":
    sys.exit(main())
