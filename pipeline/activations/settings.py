"""Settings of stores: what is stored of a row, and how it is compressed."""

from __future__ import annotations

from typing import Literal

StoredDtype = Literal["float16", "8bit"]
"""What a store holds: rows as they are, or codes of 8 bits over each column's range in a part."""

Codec = Literal["small", "fast", "zstd"]
"""How rows are compressed, without loss: chosen by what ``benchmarks/codecs.py`` measures.

``small`` is pcodec, which comes near the entropy of the values. ``fast`` is LZ4 on planes of bits and quick to write.
``zstd`` lies within zarr's own specification, for readers without further codecs.
"""

UNNAMED_CODEC: Codec = "zstd"
"""The codec of stores and records that name none."""
