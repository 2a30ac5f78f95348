"""Where libraries keep and fetch their weights: the cache of this machine first, and no long wait without a network."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import torch

from pipeline.io.errors import MissingDataError

WAIT_S = 3.0
"""Longest wait for the answer of a hub."""


class NotDownloadedError(MissingDataError):
    """Weights are not on this machine, and their hub can be reached: a run downloads them."""


def can_reach(url: str) -> bool:
    """Return whether a server answers within `WAIT_S`, with anything; proxies are used as for the download."""
    answered = threading.Event()

    def probe() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "pipeline"})
            urllib.request.urlopen(request, timeout=WAIT_S).close()
        except urllib.error.HTTPError as error:
            # A proxy that refuses the host answers in the name of the server.
            if error.code in (407, 502, 503, 504):
                return
        except (OSError, ValueError):
            return
        answered.set()

    # A name that is looked up has no timeout of its own.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(WAIT_S)
    return answered.is_set()


def cached_by_torch(url: str) -> bool:
    """Return whether torch's cache holds the file of this URL."""
    return (Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name).is_file()


def require_hub(name: str, library: str, url: str, ways: str, *, download: bool) -> None:
    """Refuse weights that are not in the cache and cannot, or must not, be downloaded.

    Parameters
    ----------
    name, library : of the trunk
    url : that is asked whether it can be reached
    ways : how to bring the weights, a line each
    download : False: raise also where they could be downloaded

    Raises
    ------
    MissingDataError
        The hub cannot be reached.
    NotDownloadedError
        It can, and `download` is False.
    """
    host = urlsplit(url).hostname
    if not can_reach(url):
        raise MissingDataError(
            f"trunk {name!r}: {library}'s weights are not on this machine and could not be downloaded: "
            f"{host} cannot be reached\n{ways}"
        )
    if not download:
        raise NotDownloadedError(
            f"trunk {name!r}: {library}'s weights are not on this machine; extract downloads them from {host}"
        )
