"""Whether tests run in their long form: ``make torture``."""

from __future__ import annotations

import os

TORTURE = os.environ.get("PIPELINE_TORTURE") == "1"
