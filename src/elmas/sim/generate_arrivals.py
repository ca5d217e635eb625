"""Sessions that come at random times (a Poisson process), live for a while and leave without notice."""

import heapq
from collections.abc import Callable, Iterator
from itertools import count

import numpy as np

from elmas.sim.conversations import Conversation, Maker
from elmas.sim.traces import Access

_SERVICE_S = 0.5
"""Between a request and the beginning of the pause after it."""

_TOOL_ARRIVALS_PER_S = 1.0
_TOOL_SYSTEM_BLOCKS = (12, 16, 20, 24)
_TOOL_MEAN_TURNS = 14
_TOOL_FIRST_BLOCKS = (2, 9)
_TOOL_NEW_BLOCKS = (1, 4)
_TOOL_ANSWER_BLOCKS = (0, 2)
_PAUSE_SHARES = (0.86, 0.09, 0.05)
_PAUSES_S = ((0.05, 1.0), (1.0, 10.0), (10.0, 120.0))
"""Shortest and longest pause of each class."""

_SCAN_SHARE = 0.35
"""Of all input tokens."""
_SCAN_BLOCKS = (100, 300)

_CHAT_ARRIVALS_PER_S = 1.0
_CHAT_N_SYSTEM = 12
_CHAT_SYSTEM_BLOCKS = (16, 64)
_CHAT_ZIPF = 1.0
_CHAT_NEW_BLOCKS = (2, 16)
_CHAT_ANSWER_BLOCKS = (2, 10)
_CHAT_LEAVE_AT_ONCE = 0.75
_CHAT_LEAVE_LATER = 0.12
_CHAT_THINK_MEDIAN_S = 60.0
_CHAT_THINK_SIGMA = 0.7

_SWARM_ASKERS = 20
_SWARM_QUESTIONS_PER_S = 0.1
_SWARM_SYSTEM_BLOCKS = 4
_SWARM_PROMPT_BLOCKS = 20
_SWARM_MEAN_START_S = 30.0
_SWARM_MEDIAN_GAP_S = 30.0
_SWARM_GAP_SIGMA = 0.7


def tool_agents(n_sessions: int, maker: Maker) -> Iterator[Access]:
    """Agents that call tools: many turns with short pauses, a few of them long; one of four system prompts."""
    return _arrivals(n_sessions, _TOOL_ARRIVALS_PER_S, maker, _tool_agent(maker))


def scans(n_sessions: int, maker: Maker) -> Iterator[Access]:
    """Tool agents, and between them large requests that come once: 35% of the input tokens, on average.

    `n_sessions` are both together.
    """
    agent = _tool_agent(maker)
    scans_per_agent = _SCAN_SHARE / (1 - _SCAN_SHARE) * _mean_agent_blocks() / float(np.mean(_SCAN_BLOCKS))
    scan_chance = scans_per_agent / (1 + scans_per_agent)

    def visit(number: int, arrival_s: float) -> Iterator[Access]:
        if maker.random.random() >= scan_chance:
            return agent(number, arrival_s)
        scan = Conversation(f"session-{number}")
        return iter([scan.turn(maker, arrival_s, maker.between(_SCAN_BLOCKS), 1)])

    return _arrivals(n_sessions, _TOOL_ARRIVALS_PER_S * (1 + scans_per_agent), maker, visit)


def chats(n_sessions: int, maker: Maker) -> Iterator[Access]:
    """People who chat: most ask once, the others think for a log-normal time; system prompts of Zipf popularity."""
    random = maker.random
    systems = [maker.new_blocks(maker.between(_CHAT_SYSTEM_BLOCKS)) for _ in range(_CHAT_N_SYSTEM)]
    weights = np.arange(1, _CHAT_N_SYSTEM + 1) ** -_CHAT_ZIPF
    weights /= weights.sum()

    def visit(number: int, arrival_s: float) -> Iterator[Access]:
        chat = Conversation(f"session-{number}", [systems[int(random.choice(_CHAT_N_SYSTEM, p=weights))]])
        leave_chance = _CHAT_LEAVE_AT_ONCE
        while True:
            yield chat.turn(maker, arrival_s, maker.between(_CHAT_NEW_BLOCKS), maker.between(_CHAT_ANSWER_BLOCKS))
            if random.random() < leave_chance:
                return
            leave_chance = _CHAT_LEAVE_LATER
            arrival_s += _SERVICE_S + float(random.lognormal(np.log(_CHAT_THINK_MEDIAN_S), _CHAT_THINK_SIGMA))

    return _arrivals(n_sessions, _CHAT_ARRIVALS_PER_S, maker, visit)


def swarm(n_sessions: int, maker: Maker) -> Iterator[Access]:
    """Questions, each asked by twenty agents within a minute or so: every agent asks with one prompt of the question,
    and later with another one, which has nothing but the system prompt in common with it. Each adds a little of its
    own. `n_sessions` are the agents.
    """
    random = maker.random
    system = maker.new_blocks(_SWARM_SYSTEM_BLOCKS)
    n_questions = -(-n_sessions // _SWARM_ASKERS)

    def question(number: int, arrival_s: float) -> Iterator[Access]:
        first, second = maker.new_blocks(_SWARM_PROMPT_BLOCKS), maker.new_blocks(_SWARM_PROMPT_BLOCKS)
        agents = range(number * _SWARM_ASKERS, min(n_sessions, (number + 1) * _SWARM_ASKERS))
        starts_s = arrival_s + random.exponential(_SWARM_MEAN_START_S, size=len(agents))
        gaps_s = random.lognormal(np.log(_SWARM_MEDIAN_GAP_S), _SWARM_GAP_SIGMA, size=len(agents))
        asks = [(start_s, agent, first) for start_s, agent in zip(starts_s.tolist(), agents, strict=True)]
        again_s = starts_s + _SERVICE_S + gaps_s
        asks += [(start_s, agent, second) for start_s, agent in zip(again_s.tolist(), agents, strict=True)]
        for time_s, agent, prompt in sorted(asks, key=lambda ask: ask[:2]):
            yield Conversation(f"agent-{agent}", [system, prompt]).turn(maker, time_s, 1, 1)

    return _arrivals(n_questions, _SWARM_QUESTIONS_PER_S, maker, question)


Visit = Callable[[int, float], Iterator[Access]]
"""Yields what one visitor asks for, given its number and when it comes."""


def _tool_agent(maker: Maker) -> Visit:
    random = maker.random
    systems = [maker.new_blocks(n_blocks) for n_blocks in _TOOL_SYSTEM_BLOCKS]

    def visit(number: int, arrival_s: float) -> Iterator[Access]:
        agent = Conversation(f"session-{number}", [systems[int(random.integers(len(systems)))]])
        for turn in range(int(random.geometric(1 / _TOOL_MEAN_TURNS))):
            n_new = maker.between(_TOOL_NEW_BLOCKS if turn else _TOOL_FIRST_BLOCKS)
            yield agent.turn(maker, arrival_s, n_new, maker.between(_TOOL_ANSWER_BLOCKS))
            arrival_s += _SERVICE_S + _pause_s(random)

    return visit


def _mean_agent_blocks() -> float:
    """Return how many prompt blocks a tool-using agent asks for in all its turns, on average.

    It has n turns, n geometric: E[n] = m and E[n (n - 1) / 2] = m (m - 1).
    """
    first = float(np.mean(_TOOL_SYSTEM_BLOCKS) + np.mean(_TOOL_FIRST_BLOCKS))
    growth = float(np.mean(_TOOL_NEW_BLOCKS) + np.mean(_TOOL_ANSWER_BLOCKS))
    return _TOOL_MEAN_TURNS * (first + (_TOOL_MEAN_TURNS - 1) * growth)


def _pause_s(random: np.random.Generator) -> float:
    """Return one pause of a tool-using agent; within its class evenly in the logarithm."""
    shortest_s, longest_s = _PAUSES_S[int(random.choice(len(_PAUSES_S), p=_PAUSE_SHARES))]
    return float(np.exp(random.uniform(np.log(shortest_s), np.log(longest_s))))


def _arrivals(n_visitors: int, per_s: float, maker: Maker, visit: Visit) -> Iterator[Access]:
    """Merge what visitors ask for by time; only those that have come and not left are held."""
    order = count()
    waiting: list[tuple[float, int, Access, Iterator[Access]]] = []

    def push(visitor: Iterator[Access]) -> None:
        access = next(visitor, None)
        if access is not None:
            heapq.heappush(waiting, (access.arrival_s, next(order), access, visitor))

    def pop() -> Access:
        _, _, access, visitor = heapq.heappop(waiting)
        push(visitor)
        return access

    arrival_s = 0.0
    for number in range(n_visitors):
        arrival_s += float(maker.random.exponential(1 / (per_s * maker.load)))
        while waiting and waiting[0][0] <= arrival_s:
            yield pop()
        push(visit(number, arrival_s))
    while waiting:
        yield pop()
