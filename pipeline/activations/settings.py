"""Settings of stores: what is stored of a row, and how it is compressed."""

from __future__ import annotations

from typing import Literal

StoredDtype = Literal["float16", "8bit"]
"""What a store keeps: rows as they are, or codes of 8 bits over each column's range in a part."""

Codec = Literal["small", "fast", "zstd"]
"""How rows are compressed, without loss: chosen from what ``benchmarks/codecs.py`` measures.

``small`` is pcodec, which comes near the entropy of the values; ``fast`` is LZ4 on planes of bits, quick to write;
``zstd`` lies within zarr's own specification, for readers that have nothing else.
"""
