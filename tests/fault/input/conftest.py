"""The work folder of the commands' tests, here to be spoilt."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

# Test folders are no packages: the file is named, not the module.
_spec = importlib.util.spec_from_file_location("commands_conftest", Path(__file__).parents[2] / "cli/conftest.py")
_commands = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _commands
_spec.loader.exec_module(_commands)

stepped, work, run = _commands.stepped, _commands.work, _commands.run
