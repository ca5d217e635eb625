"""Sessions that arrive at random times (a Poisson process), live for a while and leave without notice."""

import heapq
from collections.abc import Callable, Iterator
from itertools import count

import numpy as np

from elmas.sim.conversations import BlockNumbers, Conversation
from elmas.sim.traces import Access

Visit = Iterator[tuple[float, Access]]
"""The requests of one visitor with their times. The first is made when the visitor arrives."""

_SERVICE_S = 0.5
"""Between a request and the beginning of the pause after it."""

# Tool-using agents
_TOOL_ARRIVALS_PER_S = 1.0
_TOOL_PROMPTS = (12, 16, 20, 24)
_TOOL_MEAN_TURNS = 14.0
_PAUSE_SHARES = (0.86, 0.09, 0.05)
_PAUSES_S = ((0.05, 1.0), (1.0, 10.0), (10.0, 120.0))
"""Shortest and longest of each class."""

# One-shot scans between them
_SCAN_BLOCKS = (100, 240)
_SCAN_SHARE = 0.35

# Chats
_CHAT_ARRIVALS_PER_S = 0.5
_CHAT_N_PROMPTS = 24
_CHAT_ZIPF = 1.0
_CHAT_LEAVE_AFTER_FIRST = 0.6
_CHAT_LEAVE_LATER = 0.2
_CHAT_THINK_MEDIAN_S = 40.0
_CHAT_THINK_SIGMA = 1.0

# Question swarms
_SWARM_ASKERS = 20
_SWARM_SPREAD_S = 60.0
_SWARM_QUESTIONS_PER_S = 0.1


def tool_agents(
    n_sessions: int, random: np.random.Generator, numbers: BlockNumbers, block_tokens: int
) -> Iterator[Access]:
    """Agents that call tools: many turns with short pauses, a few of them long; one of four system prompts."""
    visit = _tool_agent(random, numbers, block_tokens)
    return _arrivals(n_sessions, _TOOL_ARRIVALS_PER_S, random, visit)


def scans(n_sessions: int, random: np.random.Generator, numbers: BlockNumbers, block_tokens: int) -> Iterator[Access]:
    """Tool agents, and large requests that are made once: about 35% of all input tokens.

    `n_sessions` are both together.
    """
    agent = _tool_agent(random, numbers, block_tokens)
    # Agents and scans arrive independently; how much an average agent asks for is known from its turns.
    mean_turns = _TOOL_MEAN_TURNS
    agent_blocks = mean_turns * (float(np.mean(_TOOL_PROMPTS)) + 6 + (mean_turns - 1) * 3.5)
    scan_blocks = float(np.mean(_SCAN_BLOCKS))
    scans_per_agent = _SCAN_SHARE / (1 - _SCAN_SHARE) * agent_blocks / scan_blocks
    chance = scans_per_agent / (1 + scans_per_agent)

    def visit(name: str, arrival_s: float) -> Visit:
        if random.random() >= chance:
            yield from agent(name, arrival_s)
            return
        n_blocks = int(random.integers(*_SCAN_BLOCKS, endpoint=True))
        yield arrival_s, Conversation(name).turn(arrival_s, n_blocks, 1, numbers, block_tokens)

    return _arrivals(n_sessions, _TOOL_ARRIVALS_PER_S * (1 + scans_per_agent), random, visit)


def chats(n_sessions: int, random: np.random.Generator, numbers: BlockNumbers, block_tokens: int) -> Iterator[Access]:
    """People who chat: most ask once, the others think for a log-normal time; system prompts of Zipf popularity."""
    prompts = [numbers.take(int(n)) for n in random.integers(4, 24, size=_CHAT_N_PROMPTS)]
    weights = 1.0 / np.arange(1, _CHAT_N_PROMPTS + 1) ** _CHAT_ZIPF
    weights /= weights.sum()

    def visit(name: str, arrival_s: float) -> Visit:
        chat = Conversation(name, [prompts[int(random.choice(_CHAT_N_PROMPTS, p=weights))]])
        leave_chance = _CHAT_LEAVE_AFTER_FIRST
        while True:
            n_new, n_answer = int(random.integers(1, 12)), int(random.integers(1, 8))
            yield arrival_s, chat.turn(arrival_s, n_new, n_answer, numbers, block_tokens)
            if random.random() < leave_chance:
                return
            leave_chance = _CHAT_LEAVE_LATER
            think_s = float(random.lognormal(np.log(_CHAT_THINK_MEDIAN_S), _CHAT_THINK_SIGMA))
            arrival_s += _SERVICE_S + think_s

    return _arrivals(n_sessions, _CHAT_ARRIVALS_PER_S, random, visit)


def swarm(n_sessions: int, random: np.random.Generator, numbers: BlockNumbers, block_tokens: int) -> Iterator[Access]:
    """Questions, each asked by about twenty agents within a minute or so, with one prompt and then with another.

    The two prompts of a question differ from their first block after the system prompt on. `n_sessions` are the agents.
    """
    system = numbers.take(4)
    n_questions = -(-n_sessions // _SWARM_ASKERS)
    names = count()

    def question(_: str, arrival_s: float) -> Visit:
        first, second = numbers.take(20), numbers.take(20)
        left = min(_SWARM_ASKERS, n_sessions - n_questions_seen[0] * _SWARM_ASKERS)
        n_questions_seen[0] += 1
        asks: list[tuple[float, int, range]] = []
        starts_s = arrival_s + random.exponential(_SWARM_SPREAD_S / 2, size=left)
        gaps_s = random.lognormal(np.log(_SWARM_SPREAD_S / 2), 0.7, size=left)
        for start_s, gap_s in zip(starts_s.tolist(), gaps_s.tolist(), strict=True):
            agent = next(names)
            asks += [(start_s, agent, first), (start_s + _SERVICE_S + gap_s, agent, second)]
        for time_s, agent, body in sorted(asks, key=lambda ask: ask[0]):
            asker = Conversation(f"agent-{agent}", [system, body])
            yield time_s, asker.turn(time_s, 1, 1, numbers, block_tokens)

    n_questions_seen = [0]
    return _arrivals(n_questions, _SWARM_QUESTIONS_PER_S, random, question)


def _tool_agent(random: np.random.Generator, numbers: BlockNumbers, block_tokens: int) -> Callable[[str, float], Visit]:
    prompts = [numbers.take(n) for n in _TOOL_PROMPTS]

    def visit(name: str, arrival_s: float) -> Visit:
        agent = Conversation(name, [prompts[int(random.integers(len(prompts)))]])
        n_new = int(random.integers(2, 10))
        for turn in range(int(random.geometric(1 / _TOOL_MEAN_TURNS))):
            if turn:
                n_new = int(random.integers(1, 5))
                arrival_s += _SERVICE_S + _pause_s(random)
            yield arrival_s, agent.turn(arrival_s, n_new, int(random.integers(0, 3)), numbers, block_tokens)

    return visit


def _pause_s(random: np.random.Generator) -> float:
    """Return one pause of a tool-using agent; within its class evenly in the logarithm."""
    shortest_s, longest_s = _PAUSES_S[int(random.choice(len(_PAUSES_S), p=_PAUSE_SHARES))]
    return float(np.exp(random.uniform(np.log(shortest_s), np.log(longest_s))))


def _arrivals(
    n_visits: int, per_s: float, random: np.random.Generator, visit: Callable[[str, float], Visit]
) -> Iterator[Access]:
    """Merge visits that begin at random times, by time. Only those that have begun are held."""
    order = count()
    waiting: list[tuple[float, int, Access, Visit]] = []

    def push(visits: Visit) -> None:
        found = next(visits, None)
        if found is not None:
            time_s, access = found
            heapq.heappush(waiting, (time_s, next(order), access, visits))

    arrival_s = 0.0
    for number in range(n_visits):
        arrival_s += float(random.exponential(1 / per_s))
        while waiting and waiting[0][0] <= arrival_s:
            _, _, access, visits = heapq.heappop(waiting)
            yield access
            push(visits)
        push(visit(f"session-{number}", arrival_s))
    while waiting:
        _, _, access, visits = heapq.heappop(waiting)
        yield access
        push(visits)
