"""Draw the rooms of the package and their imports into ``docs/architecture.md``, from the code itself.

Run it after a change of a room, its docstring or its imports: ``python tools/draw_architecture.py``. A
test checks that the page is current. Everything outside of the markers is written by hand.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/architecture.md"
BEGIN = "<!-- drawn by tools/draw_architecture.py: begin -->"
END = "<!-- drawn by tools/draw_architecture.py: end -->"


def floors(root: Path = ROOT) -> list[list[str]]:
    """Rooms by floor, the ground floor first, as the layers contract orders them."""
    contracts = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [[name.strip() for name in layer.split("|")] for layer in reversed(layers)]


def modules_of(room: str, root: Path = ROOT) -> list[Path]:
    """Files of a room: of a package all modules below it, else the one module."""
    folder = root / "pipeline" / room
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def sentence_of(room: str, root: Path = ROOT) -> str:
    """First line of the docstring of a room."""
    first = root / "pipeline" / room / "__init__.py"
    tree = ast.parse((first if first.exists() else modules_of(room, root)[0]).read_text())
    return (ast.get_docstring(tree) or "").splitlines()[0]


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Every module that a tree imports, also inside functions; not those for types alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.orelse:
                yield from imported_names(child)
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # `from pipeline import api` imports a room, too.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from imported_names(node)


def imports_of(room: str, rooms: list[str], root: Path = ROOT) -> set[str]:
    """The other rooms that a room imports from."""
    found: set[str] = set()
    for path in modules_of(room, root):
        for name in imported_names(ast.parse(path.read_text())):
            parts = name.split(".")
            if parts[0] == "pipeline" and len(parts) > 1 and parts[1] in rooms:
                found.add(parts[1])
    return found - {room}


def draw(root: Path = ROOT) -> str:
    """The table of rooms and the matrix of their imports, as Markdown."""
    storeys = floors(root)
    rooms = [room for storey in storeys for room in storey]
    imports = {room: imports_of(room, rooms, root) for room in rooms}
    lines = ["| floor | room | what it is | modules |", "| --- | --- | --- | --- |"]
    for floor, storey in enumerate(storeys, 1):
        for room in storey:
            paths = modules_of(room, root)
            link = f"[`{room}`](../pipeline/{room if (root / 'pipeline' / room).is_dir() else room + '.py'})"
            lines.append(f"| {floor} | {link} | {sentence_of(room, root)} | {len(paths)} |")
    width = max(map(len, rooms))
    used = [room for room in rooms if any(room in others for others in imports.values())]
    lines += ["", "Which room (row) imports which (column), the upper floors first:", "", "```text"]
    lines.append(" " * width + "  " + " ".join(used))
    for room in reversed(rooms):
        cells = " ".join(("●" if other in imports[room] else "·").center(len(other)) for other in used)
        lines.append(f"{room:<{width}}  {cells}".rstrip())
    floor_of = {room: floor for floor, storey in enumerate(storeys) for room in storey}
    n_up = sum(floor_of[other] >= floor_of[room] for room in rooms for other in imports[room])
    n_all = sum(map(len, imports.values()))
    lines += ["```", "", f"{len(rooms)} rooms on {len(storeys)} floors; {n_all} arrows, {n_up} of them not downwards."]
    return "\n".join(lines)


def updated(page: str, drawing: str) -> str:
    """The page with another drawing between its markers."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{drawing}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(), draw()))
