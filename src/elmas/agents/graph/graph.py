"""A graph of agents: nodes are operations, edges carry what they return, and all that can run at once does.

The idea is that of GPTSwarm (Zhuge et al., "Language Agents as Optimizable Graphs", 2024): an agent is a small graph of
operations, and a swarm is a graph of agents with a node at its end that decides. networkx holds the structure.

A node that fails or is too slow does not stop the graph: its outcome is the error, and what needs its message is
skipped.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import networkx as nx

Inbox = Mapping[str, Any]
"""What the nodes before a node returned, by their names, in the order in which the edges were made."""

Operation = Callable[[Any, Inbox], Awaitable[Any]]
"""Gets the task of the run and the inbox, and returns the node's message."""

OnNode = Callable[["Outcome"], None]
"""Called when a node has run, failed or been skipped."""


class NodeError(Exception):
    """An operation cannot go on; its text is the node's error as it stands."""


class State(StrEnum):
    """What became of a node."""

    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Outcome:
    """One node in one run. Times are seconds since the run began."""

    node: str
    state: State
    message: Any
    """None unless the node is done."""
    error: str | None
    began_s: float
    ended_s: float


@dataclass(frozen=True)
class GraphResult:
    """What became of every node, in the order in which they ended."""

    graph: "Graph"
    outcomes: Mapping[str, Outcome]

    def message(self, node: str) -> Any:
        """Return what a node returned; None for one that failed or was skipped."""
        return self.outcomes[node].message

    @property
    def failures(self) -> list[tuple[str, str]]:
        """Node and error of all that failed; those that were skipped because of them are not named."""
        return [(each.node, each.error or "") for each in self.outcomes.values() if each.state is State.FAILED]


class Graph:
    """Nodes with unique names and edges between them, without a cycle: a node names those before it, which exist."""

    def __init__(self) -> None:
        self.structure: nx.DiGraph[str] = nx.DiGraph()
        """Nodes have the attributes `operation`, `kind`, `timeout_s` and `needs_all`."""

    def add(
        self,
        name: str,
        operation: Operation,
        after: Sequence[str] = (),
        *,
        kind: str = "",
        timeout_s: float | None = None,
        needs_all: bool = True,
    ) -> str:
        """Add a node that gets the messages of the nodes `after`; returns its name.

        `kind` is what drawings and progress call it. After `timeout_s` it has failed; None: its operation has limits of
        its own. Without `needs_all` it runs as soon as all before it have ended and one of them has a message.
        Raises ValueError for a name that is taken, or one in `after` that is not.
        """
        if name in self.structure:
            raise ValueError(f"there is a node {name!r} already")
        missing = [before for before in after if before not in self.structure]
        if missing:
            raise ValueError(f"{name!r} comes after {missing[0]!r}, which is not in the graph")
        attributes = {"operation": operation, "kind": kind or name, "timeout_s": timeout_s, "needs_all": needs_all}
        self.structure.add_node(name, **attributes)
        self.structure.add_edges_from((before, name) for before in after)
        return name

    def embed(self, name: str, inner: "Graph", after: Sequence[str] = ()) -> list[str]:
        """Add the nodes of another graph as `name/...`, its first ones after `after`; returns the names of its last
        ones: those that nothing in it comes after."""
        for node in nx.topological_sort(inner.structure):
            attributes = inner.structure.nodes[node]
            before = [f"{name}/{each}" for each in inner.structure.predecessors(node)]
            operation = attributes["operation"]
            rest = {key: value for key, value in attributes.items() if key != "operation"}
            self.add(f"{name}/{node}", operation, before or list(after), **rest)
        return [f"{name}/{node}" for node in inner.last_nodes]

    @property
    def last_nodes(self) -> list[str]:
        """The nodes that nothing comes after."""
        return [node for node, degree in self.structure.out_degree() if degree == 0]

    async def run(self, task: Any = None, on_node: OnNode | None = None) -> GraphResult:
        """Run every node once, each as soon as those before it have ended; raises for nothing that a node does."""
        run = _Run(self.structure, task, on_node)
        async with asyncio.TaskGroup() as group:
            run.start(group)
        return GraphResult(self, run.outcomes)


def swarm(agents: Mapping[str, Graph], decide: Operation, *, timeout_s: float | None = None) -> Graph:
    """Return a graph of agents that all work on the run's task, and a node `decision` at its end.

    `decide` gets the messages of their last nodes; those of agents that failed are missing.
    """
    graph = Graph()
    ends = [end for name, agent in agents.items() for end in graph.embed(name, agent)]
    graph.add("decision", decide, ends, timeout_s=timeout_s, needs_all=False)
    return graph


class _Run:
    """One run of a graph: counts down what each node waits for."""

    def __init__(self, structure: "nx.DiGraph[str]", task: Any, on_node: OnNode | None) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self._structure = structure
        self._task = task
        self._on_node = on_node
        self._n_missing: dict[str, int] = dict(structure.in_degree())
        self._start_s = time.perf_counter()

    def start(self, group: asyncio.TaskGroup) -> None:
        """Start the nodes that wait for nothing; the others follow."""
        for node, n_missing in list(self._n_missing.items()):
            if n_missing == 0:
                group.create_task(self._run_node(node, group))

    async def _run_node(self, node: str, group: asyncio.TaskGroup) -> None:
        outcome = await self._outcome(node)
        self.outcomes[node] = outcome
        if self._on_node is not None:
            self._on_node(outcome)
        for successor in self._structure.successors(node):
            self._n_missing[successor] -= 1
            if self._n_missing[successor] == 0:
                group.create_task(self._run_node(successor, group))

    async def _outcome(self, node: str) -> Outcome:
        attributes = self._structure.nodes[node]
        before = [self.outcomes[name] for name in self._structure.predecessors(node)]
        began_s = time.perf_counter() - self._start_s
        without = [outcome.node for outcome in before if outcome.state is not State.DONE]
        if without and (attributes["needs_all"] or len(without) == len(before)):
            return Outcome(node, State.SKIPPED, None, f"{without[0]} has no message", began_s, began_s)
        inbox = {outcome.node: outcome.message for outcome in before if outcome.state is State.DONE}
        message, error = None, None
        limit = asyncio.timeout(attributes["timeout_s"])
        try:
            async with limit:
                message = await attributes["operation"](self._task, inbox)
        except NodeError as cause:
            error = str(cause)
        except Exception as cause:  # whatever one agent does wrong, the others go on
            late = isinstance(cause, TimeoutError) and limit.expired()
            error = f"not done within {attributes['timeout_s']:g} s" if late else f"{type(cause).__name__}: {cause}"
        ended_s = time.perf_counter() - self._start_s
        return Outcome(node, State.DONE if error is None else State.FAILED, message, error, began_s, ended_s)
