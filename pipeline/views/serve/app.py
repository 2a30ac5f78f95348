"""The page's server: photos in, scores and heat maps out. It listens on this machine alone and writes no file."""

from __future__ import annotations

import io
import secrets
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any
from urllib.parse import urlsplit

import numpy as np
from flask import Flask, Response, abort, jsonify, render_template, request
from PIL import Image

from pipeline.dataset.picture import decode_image
from pipeline.head.head import Head
from pipeline.io.digests import sha256_bytes
from pipeline.io.errors import HeadError, PipelineError, SettingsError
from pipeline.io.memory import release_memory
from pipeline.io.picture_file import PictureFile
from pipeline.scoring.aggregation import MAXIMUM, Aggregation, natural_aggregation, select_applicable
from pipeline.scoring.calibration import Calibration, calibrate
from pipeline.scoring.results import check_scores
from pipeline.stages import fit_head, patches, score
from pipeline.stages.boxes import refuse_without_labels
from pipeline.stages.context import RunContext
from pipeline.stages.patches import current_table
from pipeline.stages.workspace import Workspace
from pipeline.views.figures.heat_maps import common_scale, overlay
from pipeline.views.figures.style import jpeg_uri
from pipeline.views.heat_maps import turns_of
from pipeline.views.photos import Photo, PhotoReader, check_makes_heat_maps, shrink_for_display

LOCAL = ("127.0.0.1", "localhost", "::1")
PHOTOS_KEPT = 24
"""In memory, with their activations: another head or k needs no second look."""
MOST_BYTES = 64 * 2**20
MAP_PX = 640
THUMBNAIL_PX = 160
N_MAPS = 3
N_EXAMPLES = 6


class Desk:
    """Readers by the name of their head, and the last photos, whose activations are in memory.

    Parameters
    ----------
    heads : fitted, of one dataset and one trunk, by name
    aggregations : that can be chosen
    known_turns : whether pictures of the dataset are turned by EXIF, by the SHA-256 of their bytes
    calibrations : from scores to probabilities, by name of the head and aggregation
    examples : pictures to begin with, by id
    """

    def __init__(
        self,
        ws: Workspace,
        heads: dict[str, Head],
        aggregations: Sequence[Aggregation],
        known_turns: Mapping[str, bool] = MappingProxyType({}),
        calibrations: Mapping[tuple[str, str], Calibration] = MappingProxyType({}),
        examples: Mapping[str, PictureFile] = MappingProxyType({}),
    ) -> None:
        self.known_turns = known_turns
        self.calibrations, self.examples = calibrations, examples
        self.readers: dict[str, PhotoReader] = {}
        runner = None
        for name, head in heads.items():
            self.readers[name] = PhotoReader(ws, head, runner)
            runner = self.readers[name].runner
        self.aggregations = tuple(aggregations)
        self._photos: OrderedDict[str, Photo] = OrderedDict()
        # One photo at a time, since each uses all cores, and in one thread: libraries keep buffers for every thread.
        self._worker = ThreadPoolExecutor(1)

    def take(self, stream: IO[bytes], name: str) -> str:
        """Run the trunk on a photo, and return the key under which its activations are held.

        Parameters
        ----------
        stream : the photo's file
        name : of the photo, for people: of a file without its suffix

        Raises
        ------
        BadPictureError
        """
        photo = self._worker.submit(self._read, stream, name).result()
        key = secrets.token_urlsafe(12)
        self._photos[key] = photo
        while len(self._photos) > PHOTOS_KEPT:
            self._photos.popitem(last=False)
        return key

    def _read(self, stream: IO[bytes], name: str) -> Photo:
        reader = next(iter(self.readers.values()))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / (Path(name).name.strip(".") or "photo")
            with open(path, "wb") as file:
                shutil.copyfileobj(stream, file)
            release_memory()  # else the allocator keeps much of what was freed, here and in other threads
            try:
                return replace(reader.read(path, self.known_turns), name=Path(name).name)
            finally:
                release_memory()

    def judge(self, key: str, head: str, k: str | None, wanted: Sequence[str]) -> dict[str, Any]:
        """Return scores and heat maps of a photo that `take` took.

        Parameters
        ----------
        k : as formatted; None for the first that the head has
        wanted : classes whose heat maps alone are asked for; none for those of the highest scores

        Raises
        ------
        KeyError
            The photo is no longer in memory, or there is no such head or class.
        """
        photo, reader = self._photos[key], self.readers[head]
        self._photos.move_to_end(key)
        look = reader.judge(photo)
        natural = natural_aggregation(reader.head.facts.settings) or MAXIMUM
        applicable = select_applicable(look.score_kind, self.aggregations)
        known = applicable if applicable[:1] == self.aggregations[:1] else tuple(dict.fromkeys((natural, *applicable)))
        chosen = next((each for each in known if str(each) == k), known[0])
        scores = look.picture_scores(chosen)
        calibration = self.calibrations.get((head, str(chosen)))
        chances = np.full(len(scores), np.nan) if calibration is None else calibration.probabilities(scores)
        # Probabilities of classes compare; where one has none, there are the scores alone.
        is_calibrated = not np.isnan(chances).any()
        order = np.lexsort((-scores, -chances)) if is_calibrated else np.argsort(-scores, kind="stable")
        unknown = [name for name in wanted or () if name not in look.classes]
        if unknown:
            raise KeyError(unknown[0])
        columns = order[:N_MAPS] if not wanted else np.array([look.classes.index(name) for name in wanted])
        drawn = look.shrunk(MAP_PX)
        maps = drawn.smooth_maps(columns)
        # One scale for all maps of the photo by a head, so that they compare.
        scale = common_scale(drawn.smooth_maps(order[:N_MAPS]) if wanted else maps)
        assert scale.vmin is not None and scale.vmax is not None
        return {
            "photo": key,
            "name": photo.name,
            "head": head,
            "k": str(chosen),
            "ks": [str(each) for each in known],
            "patches": len(photo.rows),
            "picture": jpeg_uri(photo.pixels, MAP_PX),
            "thumbnail": jpeg_uri(photo.pixels, THUMBNAIL_PX),
            "lowest": float(scale.vmin),
            "highest": float(scale.vmax),
            "calibrated_on": calibration.n_pictures if calibration is not None and is_calibrated else None,
            "scores": [
                {
                    "class": look.classes[c],
                    "score": float(scores[c]),
                    "probability": float(chances[c]) if is_calibrated else None,
                }
                for c in order
            ],
            "maps": [
                {"class": look.classes[c], "map": jpeg_uri(overlay(drawn.pixels, values, scale))}
                for c, values in zip(columns, maps, strict=True)
            ],
        }

    def example(self, index: int) -> tuple[IO[bytes], str]:
        """Return the bytes and the id of an example.

        Raises
        ------
        KeyError
            There is no such example, or its file is gone.
        """
        try:
            name, file = list(self.examples.items())[index]
            return io.BytesIO(file.read_bytes()), name
        except (IndexError, OSError) as error:
            raise KeyError(f"example {index + 1}") from error

    def thumbnail(self, index: int) -> bytes:
        """Return an example made small, as JPEG.

        Raises
        ------
        KeyError
            There is no such example, or its file is gone.
        """
        stream, name = self.example(index)
        data = stream.read()
        image = decode_image(data, self.known_turns.get(sha256_bytes(data), True), name)
        buffer = io.BytesIO()
        Image.fromarray(shrink_for_display(image, THUMBNAIL_PX)).save(buffer, "JPEG", quality=85)
        return buffer.getvalue()


def _guard(app: Flask) -> None:
    """Answer this machine's own page alone, and let that page load nothing from elsewhere."""

    @app.before_request
    def only_from_here() -> None:
        # Another site's page may reach this port through a name of its own that leads here, or post to it.
        if request.host.rpartition(":")[0].strip("[]") not in LOCAL:
            abort(403)
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != request.host:
            abort(403)

    @app.after_request
    def nothing_from_elsewhere(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'"
        response.headers["Cache-Control"] = "no-store"
        return response


def make_app(desk: Desk, title: str) -> Flask:
    """Make the page and its requests: take a photo or an example, and return scores and heat maps of one."""
    app = Flask(__name__, template_folder=".", static_folder="static")
    app.config["MAX_CONTENT_LENGTH"] = MOST_BYTES

    _guard(app)

    @app.get("/")
    def page() -> str:
        return render_template("page.html", title=title, heads=list(desk.readers), examples=list(desk.examples))

    @app.get("/examples/<int:index>")
    def example(index: int) -> Response:
        try:
            return Response(desk.thumbnail(index), mimetype="image/jpeg")
        except (KeyError, PipelineError):
            abort(404)

    @app.post("/photos")
    def look() -> tuple[Response, int] | Response:
        given, example = request.files.get("photo"), request.form.get("example", type=int)
        if given is None and example is None:
            return jsonify(error="no photo in the request"), 400
        try:
            if given is not None:
                key = desk.take(given.stream, Path(given.filename or "photo").stem)
            else:
                assert example is not None
                key = desk.take(*desk.example(example))
        except KeyError as error:
            return jsonify(error=f"not there: {error.args[0]}"), 404
        except PipelineError as error:
            return jsonify(error=str(error)), 422
        return answer(key)

    @app.get("/photos/<key>")
    def judge(key: str) -> tuple[Response, int] | Response:
        return answer(key)

    def answer(key: str) -> tuple[Response, int] | Response:
        head = request.values.get("head") or next(iter(desk.readers))
        try:
            return jsonify(desk.judge(key, head, request.values.get("k"), request.values.getlist("class")))
        except KeyError as error:
            return jsonify(error=f"not known (any more): {error.args[0]}; drop the photo again"), 404

    @app.errorhandler(413)
    def too_large(error: Exception) -> tuple[Response, int]:
        return jsonify(error=f"the file has more than {MOST_BYTES // 2**20} MiB"), 413

    return app


def known_turns(run: RunContext) -> dict[str, bool]:
    """Return whether each picture of a dataset is turned by EXIF, by digest, so that it is read as in its split."""
    return {digest: turn for split in run.manifest.splits for digest, turn in turns_of(run, split).items()}


def calibrations_of(run: RunContext, heads: Mapping[str, Head]) -> dict[tuple[str, str], Calibration]:
    """Learn probabilities from the scores of the evaluation split, by head and aggregation.

    Pictures that the head was fitted on do not count. Heads whose scores are not there or not current have none, and
    neither has a split without labels, or a head whose fit pictures are not known any more.
    """
    found: dict[tuple[str, str], Calibration] = {}
    for name, head in heads.items():
        try:
            table, scores = current_table(run, run.manifest.eval), score.require(run, name, run.manifest.eval)
            check_scores(scores, table)
            fitted_on = set(patches.require(run, head.facts.split).picture_sha256)
        except (PipelineError, OSError):
            continue
        if table.labelled and scores.classes == head.classes:
            is_new = np.array([digest not in fitted_on for digest in table.picture_sha256], bool)
            labels = np.where(is_new[:, None], table.scored_labels, np.int8(0))
            for aggregation in scores.aggregations:
                found[name, str(aggregation)] = calibrate(scores.by(aggregation), labels, head.score_kind)
    return found


def examples_of(run: RunContext) -> dict[str, PictureFile]:
    """Choose some pictures of the evaluation split to begin with, by id; none where they are not here."""
    try:
        paths = run.split(run.manifest.eval).paths_by_id
    except (PipelineError, OSError):
        return {}
    ids = list(paths)
    n = min(N_EXAMPLES, len(ids))
    return {i: paths[i] for i in (ids[index * len(ids) // n] for index in range(n))}


def fitted_heads(run: RunContext) -> dict[str, Head]:
    """Fitted heads of a dataset that have scores of patches, the configured one first.

    Heads that are not current, or damaged, are left out and named.

    Raises
    ------
    SettingsError
        There is none.
    """
    found = {}
    refuse_without_labels(run.manifest, "a page of predictions")
    ws, has_boxes = run.ws, run.manifest.has_boxes
    main = ws.settings.main_head(has_boxes)
    names = dict.fromkeys([main, *ws.settings.compared_heads(has_boxes), *ws.settings.heads, *ws.settings.known_heads])
    for name in names:
        if not fit_head.path(run, name).is_file():
            continue
        try:
            head = fit_head.require(run, name)
        except HeadError as error:
            run.say(f"left out: {error}")
            continue
        with suppress(HeadError):
            check_makes_heat_maps(head)
            found[name] = head
    if not found:
        raise SettingsError(
            f"{run.dataset}: no fitted head with scores of patches under these settings that is current; "
            f"fit one with: pipeline fit-head --dataset {run.dataset} --head {main if has_boxes else 'weak'}"
        )
    return found
