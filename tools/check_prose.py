"""Check the words of README, documentation, pages that the package makes and help texts: `make lint`.

Private words for things that have a common name are refused, and the common name is printed. Sentences of more than 25
words are counted, and listed with ``--long``; they refuse nothing.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
LONGEST = 25
"""Words of a sentence."""

COUNTED = (
    "AP|activations?|arrays?|boxes|box|columns?|commands?|deviation|files?|head|images?|jobs?|label|labels|lines?|"
    "logits?|loss|losses|map|mAP|models?|numbers?|objects?|one|opens?|output|parts?|patch|patches|photos?|pictures?|"
    "points?|positives?|process|regression|rows?|scores?|sheet|sheets|SVM|SVMs|vector|vectors|windows"
)
WORDS = {
    r"look(?:s|ed) at": "extracted; reads, runs on, shows",
    r"mend(?:s|ed|ing)?": "fix, repair",
    r"at hand": "available",
    r"h[au]ngs? on": "depends on",
    r"(?:go|goes|going|went) on": "resume, continue",
    r"beside": "next to, alongside, as well as, compared with",
    r"so many": "a number of, as many",
    r"(?:is|are|was|were|be|been) taught|taught by": "trained on (the command `pipeline taught` is code)",
    r"points? at it": "localisation, pointing game",
    r"(?:made|built|computed|fitted|extracted|decoded) anew": "again, rebuilt",
    r"made again": "rebuilt, recomputed",
    r"(?:is|are|was|were|be|been) (?:there|here) already": "exists; reused rows",
    r"is all here|all is here": "prerequisites",
    r"hears?|knows|wants|asks|asked": "reads, needs, checks (a program)",
    r"kept (?:activations?|rows?|tables?|pool5|patch tables?|features?)": "cached",
    r"reckon(?:s|ed|ing)?": "estimates",
    r"set(?:s|ting)? (?:them |recipes )?side by side": "compares",
    r"stands? (?:for itself|beside)": "is next to",
    r"what (?:came|comes) out": "the result",
    r"some (?:two|three|four|five|six|seven|eight|nine|ten|fifteen|twenty|thirty|fifty|\d[\d,.]*)": "about",
    rf"(?:{COUNTED}) a (?:class|core|device|dimension|file|fit|GPU|head|image|job|layer|machine|part|patch|photo|"
    rf"picture|recipe|row|scale|second|seed|side|split|step|store|worker)": "per",
}
"""Words that are refused, and what to write."""
ROOMS = r"rooms?"
"""The word of the code's own layers: on pages for contributors alone."""
FOR_CONTRIBUTORS = ("docs/architecture.md", "CONTRIBUTING.md")


def prose_of(text: str) -> str:
    """Markdown without code, targets of links, formulas and comments; lines stay where they are.

    >>> prose_of("Run `mend`, [then](look-at.md):\\n```sh\\nbeside\\n```\\nend")
    'Run  , [then]( ):\\n\\n\\n\\nend'
    """

    def blank(match: re.Match[str]) -> str:
        return "\n" * match[0].count("\n")

    text = re.sub(r"^ *(```|~~~).*?^ *\1 *$", blank, text, flags=re.S | re.M)
    text = re.sub(r"<!--.*?-->", blank, text, flags=re.S)
    text = re.sub(r"`[^`\n]*`", " ", text)
    return re.sub(r"(?<=\]\()[^)\n]*(?=\))", " ", text)


def words_of(template: str) -> str:
    """Text of an HTML template; lines stay where they are, and tags other than inline ones end a sentence.

    >>> words_of("<p>a {{ b }}\\n<b>c</b> {% if d %}e</p>")
    ' ; a  \\n c   e ; '
    """

    def instead(match: re.Match[str]) -> str:
        is_inline = match[0][0] == "{" or re.match(r"</?(a|b|code|em|i|small|span|strong|var)\b", match[0])
        return "\n" * match[0].count("\n") or (" " if is_inline else " ; ")

    return re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>|{[{%#].*?[}%#]}", instead, template, flags=re.S)


def refused_in(text: str, rooms: bool = True) -> Iterator[tuple[int, str, str]]:
    """Yield line, words and what to write, for each refused use.

    >>> list(refused_in("One row\\nis kept.\\nThen one job a\\nclass."))
    [(3, 'job a class', 'per')]
    >>> list(refused_in("a sheet a class, beside it"))
    [(1, 'sheet a class', 'per'), (1, 'beside', 'next to, alongside, as well as, compared with')]
    """
    prose = prose_of(text)
    words = WORDS | ({ROOMS: "package, stage"} if rooms else {})
    found = []
    for pattern, instead in words.items():
        for match in re.finditer(rf"(?<![\w-])(?:{pattern})(?![\w-])".replace(" ", r"(?: +| *\n *)"), prose, re.I):
            found.append((prose.count("\n", 0, match.start()) + 1, " ".join(match[0].split()), instead, match.start()))
    yield from ((line, used, instead) for line, used, instead, _ in sorted(found, key=lambda each: each[3]))


def long_sentences(text: str) -> Iterator[tuple[int, int]]:
    """Yield line and number of words of each sentence of more than `LONGEST` words; tables, titles, examples are none.

    >>> list(long_sentences("Short. " + "word " * 26 + "end.\\n"))
    [(1, 27)]
    """
    prose = prose_of(text)
    for block in re.finditer(r"(?:^(?!\s*[|#]).+\n?)+", prose, re.M):
        if "\b" in block[0]:
            continue  # lines that click leaves as they are: examples
        at = block.start()
        for sentence in re.split(r"(?<=[.!?:;])\s+|\n(?=\s*(?:[-*]|\d+\.)\s)", block[0]):
            count = len(re.findall(r"\w[\w'-]*", sentence))
            if count > LONGEST:
                yield prose.count("\n", 0, at) + 1, count
            at += len(sentence) + 1


def pages() -> Iterator[tuple[str, str]]:
    """Yield name and text of each page, template of the report and the served page, and help text."""
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        yield path.relative_to(ROOT).as_posix(), path.read_text()
    for path in sorted((ROOT / "pipeline/views").rglob("*.html")):
        yield path.relative_to(ROOT).as_posix(), words_of(path.read_text())
    import click

    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from support.examples import all_commands

    from pipeline.cli.main import cli

    for words in all_commands():
        command: click.Command = cli
        for word in words:
            assert isinstance(command, click.Group)
            command = command.get_command(click.Context(command), word)
        options = "\n".join(getattr(param, "help", None) or "" for param in command.params)
        yield " ".join(("pipeline", *words, "--help")), f"{command.help or ''}\n\n{options}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--long", action="store_true", help="List the sentences of more than 25 words.")
    listed = parser.parse_args().long
    refused, n_long = 0, 0
    for name, text in pages():
        for line, used, instead in refused_in(text, rooms=name not in FOR_CONTRIBUTORS):
            print(f"{name}:{line}: '{used}': write {instead}")
            refused += 1
        for line, count in long_sentences(text):
            n_long += 1
            if listed:
                print(f"{name}:{line}: a sentence of {count} words")
    print(f"{refused} refused words; {n_long} sentences of more than {LONGEST} words (--long lists them)")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
