"""The page's server: photos in, scores and heat maps out. It listens on this machine alone and writes no file."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any
from urllib.parse import urlsplit

import numpy as np
from flask import Flask, Response, abort, jsonify, render_template, request

from pipeline.head.head import Head
from pipeline.io.errors import HeadError, PipelineError, SettingsError
from pipeline.io.memory import release_memory
from pipeline.scoring.aggregation import MAXIMUM, Aggregation, natural_aggregation, select_applicable
from pipeline.stages import fit_head
from pipeline.stages.boxes import refuse_without_labels
from pipeline.stages.context import RunContext
from pipeline.stages.workspace import Workspace
from pipeline.views.figures.heat_maps import blend, common_scale
from pipeline.views.figures.style import jpeg_uri
from pipeline.views.heat_maps import turns_of
from pipeline.views.photos import Photo, PhotoReader, check_makes_heat_maps

LOCAL = ("127.0.0.1", "localhost", "::1")
PHOTOS_KEPT = 8
"""In memory, with their activations: another head or k needs no second look."""
MOST_BYTES = 64 * 2**20
MAP_PX = 640
N_MAPS = 6


class Desk:
    """Readers by the name of their head, and the last photos, whose activations are in memory.

    Parameters
    ----------
    heads : fitted, of one dataset and one trunk, by name
    aggregations : that can be chosen
    known_turns : whether pictures of the dataset are turned by EXIF, by the SHA-256 of their bytes
    """

    def __init__(
        self,
        ws: Workspace,
        heads: dict[str, Head],
        aggregations: Sequence[Aggregation],
        known_turns: Mapping[str, bool] = MappingProxyType({}),
    ) -> None:
        self.known_turns = known_turns
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
        name : of the file

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
            path = Path(folder) / (Path(name).stem or "photo")
            with open(path, "wb") as file:
                shutil.copyfileobj(stream, file)
            release_memory()  # else the allocator keeps much of what was freed, here and in other threads
            try:
                return reader.read(path, self.known_turns)
            finally:
                release_memory()

    def judge(self, key: str, head: str, k: str | None, wanted: str | None) -> dict[str, Any]:
        """Return scores and heat maps of a photo that `take` took.

        Parameters
        ----------
        k : as formatted; None for the first that the head has
        wanted : a class whose heat map alone is asked for; None for those of the highest scores

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
        order = np.argsort(-scores, kind="stable")
        if wanted is not None and wanted not in look.classes:
            raise KeyError(wanted)
        columns = order[:N_MAPS] if wanted is None else np.array([look.classes.index(wanted)])
        maps = look.maps(columns)
        # One scale for all maps of the photo, so that they compare.
        scale = common_scale(look.maps(order[:N_MAPS])) if wanted is not None else common_scale(maps)
        assert scale.vmax is not None
        return {
            "photo": key,
            "name": photo.name,
            "head": head,
            "k": str(chosen),
            "ks": [str(each) for each in known],
            "patches": len(photo.rows),
            "picture": jpeg_uri(photo.pixels, MAP_PX),
            "highest": float(scale.vmax),
            "scores": [{"class": look.classes[c], "score": float(scores[c])} for c in order],
            "maps": [
                {
                    "class": look.classes[c],
                    "map": jpeg_uri((255 * blend(photo.pixels, values, scale)).astype(np.uint8), MAP_PX),
                }
                for c, values in zip(columns, maps, strict=True)
            ],
        }


def make_app(desk: Desk, title: str) -> Flask:
    """Make the page and its two requests: take a photo, and return scores and heat maps of one."""
    app = Flask(__name__, template_folder=".", static_folder="static")
    app.config["MAX_CONTENT_LENGTH"] = MOST_BYTES

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

    @app.get("/")
    def page() -> str:
        return render_template("page.html", title=title, heads=list(desk.readers))

    @app.post("/photos")
    def look() -> tuple[Response, int] | Response:
        given = request.files.get("photo")
        if given is None:
            return jsonify(error="no photo in the request"), 400
        try:
            key = desk.take(given.stream, given.filename or "photo")
        except PipelineError as error:
            return jsonify(error=str(error)), 422
        return answer(key)

    @app.get("/photos/<key>")
    def judge(key: str) -> tuple[Response, int] | Response:
        return answer(key)

    def answer(key: str) -> tuple[Response, int] | Response:
        head = request.values.get("head") or next(iter(desk.readers))
        try:
            return jsonify(desk.judge(key, head, request.values.get("k"), request.values.get("class")))
        except KeyError as error:
            return jsonify(error=f"not known (any more): {error.args[0]}; drop the photo again"), 404

    @app.errorhandler(413)
    def too_large(error: Exception) -> tuple[Response, int]:
        return jsonify(error=f"the file has more than {MOST_BYTES // 2**20} MiB"), 413

    return app


def known_turns(run: RunContext) -> dict[str, bool]:
    """Return whether each picture of a dataset is turned by EXIF, by digest, so that it is read as in its split."""
    return {digest: turn for split in run.manifest.splits for digest, turn in turns_of(run, split).items()}


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
