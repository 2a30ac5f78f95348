"""Read YAML files that a person wrote, within bounds: no text costs more than its size."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from pipeline.io.errors import PipelineError, SettingsError
from pipeline.io.lfs import UNFETCHED, is_lfs_pointer
from pipeline.io.messages import brief

MAX_BYTES = 500_000
MAX_ALIASES = 100
MAX_MERGED_KEYS = 10_000
TWICE = "keys that stand there twice, of which one would be lost"
MERGE = "tag:yaml.org,2002:merge"
BOOL = "tag:yaml.org,2002:bool"
# 010 is eight and 1:30 is ninety in YAML 1.1, whatever the writer meant.
_OTHER_BASE = re.compile(r"^[-+]?(?:0_*[0-7]|[\d_]+:)")


class _BoundedLoader(yaml.SafeLoader):
    """Count aliases and merged keys, of which a few lines can stand for billions of entries; refuse a key twice."""

    n_aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            self.n_aliases += 1
            if self.n_aliases > MAX_ALIASES:
                raise yaml.YAMLError(f"more than {MAX_ALIASES} aliases")
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = Counter((key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice := sorted(value for (tag, value), n in keys.items() if n > 1 and tag != MERGE)[:10]:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: {TWICE}: {', '.join(map(brief, twice))}")
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MAX_MERGED_KEYS:
            raise yaml.YAMLError(f"more than {MAX_MERGED_KEYS:,} merged keys")

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        value = super().construct_yaml_int(node)
        if _OTHER_BASE.match(node.value):
            raise yaml.YAMLError(
                f"line {node.start_mark.line + 1}: {node.value} is {value} to YAML: write {value}, "
                f"or '{node.value}' in quotes if it is text"
            )
        return value


# Words such as `no` and `on` are text, as in YAML 1.2: a class, a split or a country may be called so. Settings that
# are true or false take these words as well.
_BoundedLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != BOOL]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_BoundedLoader.add_implicit_resolver(BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_BoundedLoader.add_constructor("tag:yaml.org,2002:int", _BoundedLoader.construct_yaml_int)


def read_json_or_mapping(path: Path) -> dict[Any, Any]:
    """Read the mapping in a file of JSON, which may be indented by tabs, or of YAML.

    Raises
    ------
    SettingsError
        A key stands twice in it, or it is no mapping.
    """
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=lambda pairs: _each_key_once(pairs, path))
    except SettingsError:
        raise
    except (ValueError, RecursionError):
        return read_mapping(path)
    return content if isinstance(content, dict) else read_mapping(path)


def _each_key_once(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    keys = Counter(key for key, _ in pairs)
    if twice := sorted(key for key, n in keys.items() if n > 1)[:10]:
        raise SettingsError(f"{path}: {TWICE}: {', '.join(map(brief, twice))}")
    return dict(pairs)


def read_mapping(path: Path, error: type[PipelineError] = SettingsError) -> dict[Any, Any]:
    """Read the mapping in a YAML file; an empty file is an empty mapping.

    Parameters
    ----------
    error : type of the error that is raised for any other file
    """
    try:
        with open(path, "rb") as stream:  # also pipes and devices, so the bytes are counted, not the size
            data = stream.read(MAX_BYTES + 1)
    except OSError as reason:
        raise error(f"{path}: cannot be read as YAML: {reason.strerror}") from reason
    if len(data) > MAX_BYTES:
        raise error(f"{path}: cannot be read as YAML: larger than {MAX_BYTES:,} bytes, which no settings are")
    if is_lfs_pointer(data):
        raise error(f"{path}: {UNFETCHED}")
    try:
        content = yaml.load(data.decode("utf-8-sig"), _BoundedLoader)
    except Exception as reason:  # constructors of numbers, dates and tags raise nearly anything on odd values
        why = "nested too deeply" if isinstance(reason, RecursionError) else reason
        raise error(f"{path}: cannot be read as YAML, not valid YAML: {why}") from reason
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise error(f"{path}: expected a mapping of keys to values, got {type(content).__name__}")
    return content
