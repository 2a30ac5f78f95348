"""A server that speaks S3 on the loopback, and this process's environment for it."""

from __future__ import annotations

import logging
import os
import re

import boto3
import pytest
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

SECRET = "wJalrMARKER7MDENG/bPxRfiCY"


class Requests(logging.Handler):
    """The server's log of requests, as ``PUT bucket/key``."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        found = re.search(r'"(?:\x1b\[\d+m)*(\w+) /(\S*) HTTP', record.getMessage())
        if found:
            self.lines.append(f"{found[1]} {found[2]}")

    def puts(self, prefix):
        """Names below a prefix, in the order in which they were written."""
        start = f"PUT {prefix}/"
        return [line.removeprefix(start) for line in self.lines if line.startswith(start)]


class Bucket:
    """The server's one bucket, reached past all code under test."""

    def __init__(self, endpoint, requests):
        self.endpoint, self.requests = endpoint, requests
        self.client = boto3.client("s3", endpoint_url=endpoint)

    def sizes(self, prefix):
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket="bucket", Prefix=f"{prefix}/")
        return {item["Key"].removeprefix(f"{prefix}/"): item["Size"] for p in pages for item in p.get("Contents", [])}

    def get(self, key):
        return self.client.get_object(Bucket="bucket", Key=key)["Body"].read()

    def bytes(self, prefix, split="train"):
        """Every object of the one store of a split below a prefix, by its name in the store."""
        found = {name: self.get(f"{prefix}/{name}") for name in self.sizes(prefix) if name.startswith(f"tiny-{split}-")}
        assert len({name.partition("/")[0] for name in found}) == 1
        return {name.partition("/")[2]: data for name, data in found.items()}

    def store(self, prefix, split="train"):
        (name,) = {n.partition("/")[0] for n in self.sizes(prefix) if n.startswith(f"tiny-{split}-")}
        return name


KEPT_OPEN = []
"""File systems are held on to, as in a process: one that is collected closes at a time of its own."""


def connect_anew(patch):
    """What the environment says counts from here on: fsspec keeps file systems for a process's life."""
    KEPT_OPEN.append({})
    patch.setattr(S3FileSystem, "_cache", KEPT_OPEN[-1])


@pytest.fixture
def new_connections(monkeypatch):
    connect_anew(monkeypatch)


@pytest.fixture(scope="module")
def bucket():
    """A server on the loopback, and this process's environment for it."""
    log, requests = logging.getLogger("werkzeug"), Requests()
    log.addHandler(requests)
    propagated, log.propagate = log.propagate, False
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        connect_anew(patch)
        made = Bucket(f"http://{host}:{port}", requests)
        made.client.create_bucket(Bucket="bucket")
        yield made
    server.stop()
    log.removeHandler(requests)
    log.propagate = propagated
