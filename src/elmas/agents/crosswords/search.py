"""Crosswords by a tree of thoughts: propose words, judge what they leave open, go on with the best, and turn back.

The search is the depth-first one of Yao et al., "Tree of Thoughts" (2023). A node of the tree is a board. One step asks
the model for words, puts the best of them on boards of their own, and asks for every crossing place that they changed
whether it can still be filled; a board with an impossible place is given up. One step is a run of a graph, in which all
candidates are judged at once.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from elmas.agents.crosswords.prompts import (
    JUDGE_TOKENS,
    PROPOSE_TOKENS,
    judge_messages,
    judge_schema,
    parse_proposals,
    parse_verdict,
    propose_messages,
    propose_schema,
)
from elmas.agents.crosswords.puzzle import N_CELLS, PLACES, Board, Puzzle, Score, crossing, score
from elmas.agents.endpoint import RequestRecord
from elmas.agents.graph.graph import Graph, GraphResult, Inbox, Operation
from elmas.agents.model import Answer, Asker, Expect
from elmas.errors import UserError


@dataclass(frozen=True)
class SearchSettings:
    """How far the search goes."""

    n_steps: int = 10
    """Boards per puzzle for which words are asked (100 in the paper)."""
    breadth: int = 3
    """Candidates that are judged per step."""
    n_puzzles: int | None = None
    """So many, drawn with the seed; None: all, in their order."""
    n_at_once: int = 8
    """Puzzles that are worked on at the same time."""
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.n_steps, self.breadth, self.n_at_once) < 1 or (self.n_puzzles is not None and self.n_puzzles < 1):
            raise UserError("a search needs at least one step, one candidate per step and one puzzle")


@dataclass(frozen=True)
class Solved:
    """What became of one puzzle."""

    puzzle: Puzzle
    board: Board
    """The one with the most letters among those that were not given up; the first of them."""
    score: Score
    n_steps: int
    n_turned_back: int
    """Steps after which no candidate was left."""
    failures: tuple[str, ...]
    """Errors of the calls that were never answered."""
    records: tuple[RequestRecord, ...]
    run: GraphResult
    """Of the last step."""


@dataclass(frozen=True)
class CrosswordsResult:
    """All puzzles, in the order in which they were given."""

    settings: SearchSettings
    solved: tuple[Solved, ...]

    @property
    def letter_rate(self) -> float:
        """The share of letters that are right."""
        return sum(each.score.n_letters for each in self.solved) / (N_CELLS * len(self.solved))

    @property
    def word_rate(self) -> float:
        """The share of words that are right."""
        return sum(each.score.n_words for each in self.solved) / (len(PLACES) * len(self.solved))

    @property
    def game_rate(self) -> float:
        """The share of puzzles that are right as a whole."""
        return sum(each.score.is_solved for each in self.solved) / len(self.solved)

    @property
    def records(self) -> list[RequestRecord]:
        """All calls, repeated ones included, by puzzle."""
        return [record for each in self.solved for record in each.records]

    @property
    def failures(self) -> list[tuple[int, str]]:
        """Number of the puzzle (from 0) and error of every call that was never answered."""
        return [(index, error) for index, each in enumerate(self.solved) for error in each.failures]

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values; times are seconds since the first call."""
        start_s = min((record.submitted_s for record in self.records), default=0.0)
        return {
            "settings": asdict(self.settings),
            "letter_rate": self.letter_rate,
            "word_rate": self.word_rate,
            "game_rate": self.game_rate,
            "puzzles": [
                {
                    "board": each.board.letters,
                    "solution": each.puzzle.letters,
                    "right_letters": each.score.n_letters,
                    "right_words": each.score.n_words,
                    "is_solved": each.score.is_solved,
                    "n_steps": each.n_steps,
                    "n_turned_back": each.n_turned_back,
                    "failures": list(each.failures),
                    "calls": [record.to_json(start_s) for record in each.records],
                }
                for each in self.solved
            ],
        }


async def play(
    settings: SearchSettings,
    puzzles: Sequence[Puzzle],
    asker: Asker,
    on_puzzle: Callable[[], None] | None = None,
) -> CrosswordsResult:
    """Solve the puzzles; `on_puzzle` is called after each. Never raises for a failing call: an unanswered question for
    words is a dead end, an unanswered judgement gives nothing up."""
    chosen = list(puzzles)
    if settings.n_puzzles is not None and settings.n_puzzles < len(chosen):
        chosen = random.Random(settings.seed).sample(chosen, settings.n_puzzles)
    graph = _step_graph(settings.breadth)
    slots = asyncio.Semaphore(settings.n_at_once)

    async def solve(index: int, puzzle: Puzzle) -> Solved:
        async with slots:
            solved = await _Search(f"crosswords/{index}", puzzle, asker, settings.n_steps).run(graph)
        if on_puzzle is not None:
            on_puzzle()
        return solved

    return CrosswordsResult(settings, tuple(await asyncio.gather(*(solve(*each) for each in enumerate(chosen)))))


class _Search:
    """The search for one puzzle."""

    def __init__(self, name: str, puzzle: Puzzle, asker: Asker, n_steps: int) -> None:
        self._name = name
        self._puzzle = puzzle
        self._asker = asker
        self._n_steps = n_steps
        self._answers: list[Answer] = []
        self._verdicts: dict[tuple[str, str], asyncio.Task[str]] = {}

    async def run(self, graph: Graph) -> Solved:
        """Go down the tree until a board is full, no board is left, or all steps are taken."""
        best = Board()
        # The next board is the last one: children lie on their parent's siblings, the best of them on top.
        waiting, seen = [best], {best}
        n_steps = n_turned_back = 0
        while waiting and n_steps < self._n_steps and best.open_places:
            step = _Step(self, waiting.pop())
            outcome = await graph.run(step)
            n_steps += 1
            boards = [board for board in outcome.message("choose") or () if board not in seen]
            seen.update(boards)
            n_turned_back += not boards
            for board in boards:
                if board.n_letters > best.n_letters:
                    best = board
            waiting.extend(reversed(boards))
        await self._asker.done(self._proposer)
        errors = tuple(answer.error for answer in self._answers if answer.error is not None)
        records = tuple(record for answer in self._answers for record in answer.records)
        return Solved(self._puzzle, best, score(self._puzzle, best), n_steps, n_turned_back, errors, records, outcome)

    async def propose(self, board: Board) -> list[tuple[str, str]]:
        """Return legal proposals for a board, the best first."""
        answer = await self._asker.ask(
            self._proposer,
            propose_messages(self._puzzle, board),
            max_tokens=PROPOSE_TOKENS,
            schema=propose_schema(board),
            expect=Expect(rounds_to_next=1),
        )
        self._answers.append(answer)
        return parse_proposals(answer, board)

    async def is_possible(self, board: Board, place: str) -> bool:
        """Whether no crossing place of a new word was judged impossible."""
        keys = [(each, board.pattern(each)) for each in crossing(place)]
        for key in keys:
            if key not in self._verdicts:
                self._verdicts[key] = asyncio.create_task(self._judge(*key))
        verdicts = await asyncio.gather(*(self._verdicts[key] for key in keys))
        return "impossible" not in verdicts

    async def _judge(self, place: str, pattern: str) -> str:
        answer = await self._asker.ask(
            f"{self._name}/{place}/{pattern}",
            judge_messages(self._puzzle.clues[place], pattern),
            max_tokens=JUDGE_TOKENS,
            schema=judge_schema(),
            expect=Expect(done=True),
        )
        self._answers.append(answer)
        return parse_verdict(answer)

    @property
    def _proposer(self) -> str:
        return f"{self._name}/words"


@dataclass(frozen=True)
class _Step:
    """The task of one run of the step's graph."""

    search: _Search
    board: Board


def _step_graph(breadth: int) -> Graph:
    """Return the graph of one step: words are proposed, candidates judged, and those that are left returned."""

    async def propose(task: _Step, inbox: Inbox) -> list[tuple[str, str]]:
        return await task.search.propose(task.board)

    async def choose(task: _Step, inbox: Inbox) -> list[Board]:
        return [board for board in inbox.values() if board is not None]

    graph = Graph()
    graph.add("propose", propose)
    candidates = [
        graph.add(f"candidate {number + 1}", _candidate(number), ["propose"], kind="candidate")
        for number in range(breadth)
    ]
    graph.add("choose", choose, candidates, needs_all=False)
    return graph


def _candidate(number: int) -> Operation:
    async def judge(task: _Step, inbox: Inbox) -> Board | None:
        proposals: list[tuple[str, str]] = inbox["propose"]
        if number >= len(proposals):
            return None
        place, word = proposals[number]
        board = task.board.with_word(place, word)
        return board if await task.search.is_possible(board, place) else None

    return judge
