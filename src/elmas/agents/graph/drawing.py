"""A graph as a picture: one SVG file that needs nothing else.

Nodes stand in columns by the longest way to them from a node that waits for nothing, so that all edges point right. A
column of thousands shows its first nodes and says how many more there are.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path

import networkx as nx

from elmas.agents.graph.graph import Graph, GraphResult, State
from elmas.errors import UserError

_MAX_ROWS = 24
_WIDTH, _HEIGHT = 170, 22
_COLUMN_STEP, _ROW_STEP = 250, 30
_MARGIN = 20
_LONGEST_LABEL = 27

_FILLS = {State.DONE: "#dbeafe", State.FAILED: "#fecaca", State.SKIPPED: "#e5e7eb"}
_NOT_RUN = "#f3f4f6"

_STYLE = (
    "text{font:11px sans-serif;fill:#111827}"
    "rect{stroke:#6b7280;stroke-width:1}"
    "path{fill:none;stroke:#9ca3af;stroke-width:1}"
)


@dataclass(frozen=True)
class _Box:
    label: str
    title: str
    fill: str
    column: int
    row: float
    """Fractions center a short column beside a long one."""

    @property
    def x(self) -> float:
        return _MARGIN + self.column * _COLUMN_STEP

    @property
    def y(self) -> float:
        return _MARGIN + self.row * _ROW_STEP


def draw(graph: Graph, result: GraphResult | None = None) -> str:
    """Return the graph as the text of an SVG file; with a result, colors and tooltips say what became of each node."""
    box_of, boxes = _boxes(graph, result)
    n_columns = max((box.column for box in boxes), default=0) + 1
    n_rows = max((box.row for box in boxes), default=0) + 1
    width = 2 * _MARGIN + (n_columns - 1) * _COLUMN_STEP + _WIDTH
    height = 2 * _MARGIN + (n_rows - 1) * _ROW_STEP + _HEIGHT
    edges = {(box_of[before], box_of[after]) for before, after in graph.structure.edges}
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}">',
        f"<style>{_STYLE}</style>",
        '<rect width="100%" height="100%" style="fill:#ffffff;stroke:none"/>',
        *(_edge(before, after) for before, after in sorted(edges, key=lambda edge: _place(edge[0]) + _place(edge[1]))),
        *(_node(box) for box in boxes),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def write_drawing(path: Path, graph: Graph, result: GraphResult | None = None) -> None:
    """Write the drawing; raises UserError when the file cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(draw(graph, result), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write the drawing {path} ({error.strerror}): choose another file") from None


def _boxes(graph: Graph, result: GraphResult | None) -> tuple[dict[str, _Box], list[_Box]]:
    """Return the box of every node and all boxes; nodes without room share one."""
    columns = [_by_kind(graph, names) for names in nx.topological_generations(graph.structure)]
    n_rows = max((min(len(names), _MAX_ROWS) for names in columns), default=0)
    box_of: dict[str, _Box] = {}
    boxes: list[_Box] = []
    for column, names in enumerate(columns):
        shown = names if len(names) <= _MAX_ROWS else names[: _MAX_ROWS - 1]
        first_row = (n_rows - min(len(names), _MAX_ROWS)) / 2
        for row, name in enumerate(shown):
            box_of[name] = _Box(*_description(graph, result, name), column, first_row + row)
            boxes.append(box_of[name])
        hidden = names[len(shown) :]
        if hidden:
            box = _Box(f"and {len(hidden)} more", _count(hidden, result), _NOT_RUN, column, first_row + len(shown))
            boxes.append(box)
            box_of.update(dict.fromkeys(hidden, box))
    return box_of, boxes


def _by_kind(graph: Graph, names: Iterable[str]) -> list[str]:
    """Return the nodes of a column, in the order in which they were added, those of a kind together."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(graph.structure.nodes[name]["kind"], []).append(name)
    return [name for group in kinds.values() for name in group]


def _description(graph: Graph, result: GraphResult | None, name: str) -> tuple[str, str, str]:
    """Return label, tooltip and color of a node."""
    label = name if len(name) <= _LONGEST_LABEL else "…" + name[-_LONGEST_LABEL + 1 :]
    title = f"{name} ({graph.structure.nodes[name]['kind']})"
    outcome = None if result is None else result.outcomes.get(name)
    if outcome is None:
        return label, title, _NOT_RUN
    title += f"\n{outcome.state}, {outcome.began_s:.2f} to {outcome.ended_s:.2f} s"
    return label, title if outcome.error is None else f"{title}\n{outcome.error}", _FILLS[outcome.state]


def _count(names: list[str], result: GraphResult | None) -> str:
    if result is None:
        return f"{len(names)} nodes"
    states = [result.outcomes[name].state for name in names if name in result.outcomes]
    return ", ".join(f"{states.count(state)} {state}" for state in State)


def _place(box: _Box) -> tuple[float, float]:
    return box.x, box.y


def _edge(before: _Box, after: _Box) -> str:
    x1, y1, x2, y2 = before.x + _WIDTH, before.y + _HEIGHT / 2, after.x, after.y + _HEIGHT / 2
    middle = (x1 + x2) / 2
    return f'<path d="M{x1:g} {y1:g}C{middle:g} {y1:g} {middle:g} {y2:g} {x2:g} {y2:g}"/>'


def _node(box: _Box) -> str:
    return (
        f"<g><title>{escape(box.title)}</title>"
        f'<rect x="{box.x:g}" y="{box.y:g}" width="{_WIDTH}" height="{_HEIGHT}" rx="4" style="fill:{box.fill}"/>'
        f'<text x="{box.x + 8:g}" y="{box.y + 15:g}">{escape(box.label)}</text></g>'
    )
