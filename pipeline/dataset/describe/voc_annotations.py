"""Annotations of a user's own VOC folder: read, named where they cannot be used, and what they tell of EXIF."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pipeline.dataset.manifest import CLASS_NAME
from pipeline.dataset.picture import orientation_of_file
from pipeline.dataset.split import Annotation
from pipeline.dataset.voc import read_xml
from pipeline.dataset.voc_folder import FileIndex
from pipeline.dataset.voc_xml import object_name, parse_annotation, parse_root
from pipeline.io.errors import BadPictureError, DatasetError
from pipeline.io.messages import brief, enumerate_problems
from pipeline.io.progress import Say


@dataclass
class Annotations:
    """Annotations of pictures, by id.

    Attributes
    ----------
    names_of : names of the classes of each picture's objects
    read : the annotations themselves
    unusable : why the annotation of a picture cannot be used
    problems : names that cannot be classes, one line each
    padded : class names as written, where spaces around them are dropped
    filenames : name of the picture that each file states, without folder and suffix
    """

    names_of: dict[str, set[str]] = field(default_factory=dict)
    read: dict[str, Annotation] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    padded: set[str] = field(default_factory=set)
    filenames: dict[str, str] = field(default_factory=dict)


def read_annotations(xmls: FileIndex, ids: Iterable[str], on_error: str, say: Say) -> Annotations:
    """Read the annotation of each picture, and the names of its classes.

    Parameters
    ----------
    on_error : ``skip`` leaves out and names the pictures whose annotations cannot be used

    Raises
    ------
    DatasetError
        All problems of all files at once.
    """
    found = Annotations()
    for i in ids:
        _read_annotation(xmls, i, found)
    settle(found, xmls.folder.parent, on_error, say)
    return found


def settle(found: Annotations, where: Path, on_error: str, say: Say) -> None:
    """Refuse annotations that cannot be used, or name those that are left out and what is not taken as written.

    Raises
    ------
    DatasetError
        All problems at once.
    """
    problems, advice = list(found.problems), ""
    if on_error == "fail" and found.unusable:
        problems += found.unusable.values()
        advice = "\nfix them, or leave these pictures out with --on-error skip"
    if problems:
        raise DatasetError(f"{where}: {len(problems)} problem(s)\n{enumerate_problems(problems)}{advice}")
    _say_notes(found, say)


def _read_annotation(xmls: FileIndex, i: str, found: Annotations) -> None:
    """Read the annotation of one picture into `found`."""
    file = f"{xmls.folder.name}/{i}.xml"
    data, problem = read_xml(xmls, i)
    if data is None:
        found.unusable[i] = problem
        return
    try:
        root = parse_root(data)
    except ValueError as error:
        found.unusable[i] = f"{file}: {error}"
        return
    entries = root.findall("object")
    names = {object_name(entry) for entry in entries} - {""}
    padded = {text for entry in entries if (text := entry.findtext("name") or "") != text.strip()}
    try:
        annotation = parse_annotation(data, tuple(sorted(names)))
    except ValueError as error:
        found.unusable[i] = f"{file}: {error}"
        return
    found.problems += [
        f"{file}: class {brief(name)}: part of file names, so no '/', at most 100 characters"
        for name in sorted(names)
        if not CLASS_NAME.fullmatch(name)
    ]
    found.padded |= padded
    found.filenames[i] = PurePosixPath((root.findtext("filename") or "").strip().replace("\\", "/")).stem
    found.names_of[i], found.read[i] = names, annotation


def _say_notes(found: Annotations, say: Say) -> None:
    """Report what is left out, and what is not taken as it is written."""
    if found.unusable:
        n_pictures = len(found.unusable) + len(found.read)
        say(
            f"left out, {len(found.unusable)} of {n_pictures} pictures whose annotations cannot be used:\n"
            f"{enumerate_problems(list(found.unusable.values()))}"
        )
    if found.padded:
        say(f"spaces around class names are dropped: {', '.join(map(brief, sorted(found.padded)[:10]))}")
    if reaching := {i: item.n_clipped for i, item in found.read.items() if item.n_clipped}:
        say(
            f"{sum(reaching.values())} box(es) reach a little out of the picture and are clipped, in "
            f"{len(reaching)} annotation(s):\n{enumerate_problems(list(reaching))}"
        )
    others = {PurePosixPath(i).name for i in found.read}
    if strange := [
        f"{i}: <filename> {brief(name)}"
        for i, name in found.filenames.items()
        if name in others and name != PurePosixPath(i).name
    ]:
        say(
            f"NOTE: {len(strange)} annotations state the name of another picture that is there; each is taken for the "
            f"picture of its own file's name:\n{enumerate_problems(strange)}"
        )
    if repeated := {i: item.n_repeated for i, item in found.read.items() if item.n_repeated}:
        say(
            f"NOTE: {len(repeated)} annotations list an object several times, with the same class and box; each counts "
            f"as one object, {sum(repeated.values())} repetition(s) are dropped:\n{enumerate_problems(list(repeated))}"
        )


def decide_exif(pictures: Iterable[tuple[Path, Annotation]], say: Say) -> dict[str, str]:
    """Return the manifest's ``exif`` if some annotations tell which way round and others do not; else nothing."""
    told, n_untold = [], 0
    bad: list[str] = []
    for path, annotation in pictures:
        try:
            orientation, turned = orientation_of_file(path, annotation.size_wh, annotation.box_xyxy)
        except (BadPictureError, OSError) as error:  # refused by the commands that decode it
            bad.append(str(error))
            continue
        if orientation > 1 and turned is None:
            n_untold += 1
        elif orientation > 1:
            told.append(turned)
    if bad:
        say(
            f"NOTE: {len(bad)} pictures cannot be used as they are; 'pipeline data check --deep' names all of them:\n"
            f"{enumerate_problems(bad)}"
        )
    if not n_untold or not told or len(set(told)) > 1:
        return {}
    exif = "apply" if told[0] else "ignore"
    say(
        f"EXIF orientation: the annotations of {len(told)} pictures tell that boxes are on "
        f"{'turned' if told[0] else 'stored'} pixels, those of {n_untold} others fit both ways and are taken alike: "
        f"'exif: {exif}' in the manifest"
    )
    return {"exif": exif}
