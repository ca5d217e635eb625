"""The workloads: the same bytes for the same seed, whatever a server answers; sizes and sharing as in the original."""

import asyncio
import itertools
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from statistics import mean, pstdev
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elmas.agents.endpoint import RequestRecord
from elmas.bench.workloads.catalog import MULTI_AGENT, STANDARD, WORKLOADS, scaled, workload
from elmas.bench.workloads.guessing_game import GuessingGame
from elmas.bench.workloads.sizes import prompt_tokens, repeated_share, request_tokens
from elmas.bench.workloads.steps import AtOnce, Due, InTurn, Pause, Scripted, perform
from elmas.bench.workloads.workload import Request, Vocabulary, Workload
from elmas.errors import UserError

NAMES = list(WORKLOADS)


def small(name: str, seed: int = 42) -> Workload:
    return scaled(workload(name, seed=seed), 0.05)


class Recorder:
    """A load that answers after random times, with random texts, and sometimes fails; virtual seconds."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.sent: list[tuple[float, Request]] = []
        self.ended: dict[tuple[str, int], float] = {}

    @property
    def now_s(self) -> float:
        return asyncio.get_running_loop().time()

    async def send(self, request: Request, due_s: float | None = None) -> RequestRecord:
        if due_s is not None:
            await self.sleep_until(due_s)
        self.sent.append((self.now_s, request))
        begin_s = self.now_s
        await asyncio.sleep(self._random.expovariate(10))
        self.ended[request.agent, request.turn] = self.now_s
        error = "HTTP 500: broken" if self._random.random() < 0.1 else None
        return RequestRecord(begin_s, self.now_s, text=f"said {self._random.random()}", error=error)

    async def gather(self, requests: Sequence[Request]) -> list[RequestRecord]:
        return list(await asyncio.gather(*(self.send(request) for request in requests)))

    async def sleep_until(self, due_s: float) -> None:
        await asyncio.sleep(max(0.0, due_s - self.now_s))


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0
        select = self._selector.select  # type: ignore[attr-defined]

        def jump(timeout: float | None = None) -> Any:
            # None: only another thread or a process can wake the loop, so it really waits.
            found = select(timeout if timeout is None else 0)
            if not found and timeout:
                self._now_s += timeout
            return found

        self._selector.select = jump  # type: ignore[attr-defined]

    def time(self) -> float:
        return self._now_s


def play(workload: Workload, seed: int = 0) -> Recorder:
    recorder = Recorder(seed)
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(workload.play(recorder))
    return recorder


def bodies(recorder: Recorder) -> dict[tuple[str, int], str]:
    return {(each.agent, each.turn): json.dumps([each.path, each.round, each.fields]) for _, each in recorder.sent}


@pytest.mark.parametrize("name", [name for name in NAMES if name != "app_gaia"])
def test_two_runs_send_the_same_bytes_whatever_is_answered_and_when(name: str) -> None:
    first, second = play(small(name), seed=1), play(small(name), seed=2)
    assert bodies(first) == bodies(second)
    assert len(first.sent) == len(bodies(first)) == small(name).n_requests  # no agent sends a turn twice


def test_agents_with_real_tools_send_the_same_bytes_in_every_run() -> None:
    # Their tools are processes: virtual time would run ahead of them.
    recorders = [Recorder(1), Recorder(2)]
    for recorder in recorders:
        asyncio.run(small("app_gaia").play(recorder))
    assert bodies(recorders[0]) == bodies(recorders[1])
    assert len(recorders[0].sent) == small("app_gaia").n_requests


@pytest.mark.parametrize("name", NAMES)
def test_seeds_differ(name: str) -> None:
    first = [request.fields for request in small(name, 1).requests()]
    assert first != [request.fields for request in small(name, 2).requests()]


@pytest.mark.parametrize("name", NAMES)
def test_a_workload_knows_its_sizes_and_is_plain_data(name: str) -> None:
    each = small(name)
    requests = each.requests()
    assert each.name == name
    assert each.seed == 42
    assert each.n_requests == len(requests)
    assert each.longest_request_tokens == max(request_tokens(request) for request in requests) <= 8192
    json.dumps(asdict(each), default=str)  # type: ignore[call-overload]
    assert each.source() == "synthetic"


@pytest.mark.parametrize("name", NAMES)
def test_less_of_a_workload_is_still_the_workload(name: str) -> None:
    whole = workload(name, seed=42)
    less, least = whole.scaled(0.1), whole.scaled(1e-6)
    assert 0 < least.n_requests <= less.n_requests < whole.n_requests
    assert whole.scaled(1.0).n_requests == whole.n_requests
    # The first requests of a trace have short histories, and the games of hundreds lose rounds.
    if isinstance(whole, Scripted) and name != "replay" and whole.n_requests < 2000:
        lengths = [mean(request_tokens(request) for request in each.requests()) for each in (whole, less)]
        assert lengths[1] == pytest.approx(lengths[0], rel=0.25)


def test_a_pair_at_small_scale_is_a_minute_of_two_cores() -> None:
    # Some 2,000 prompt tokens per second, and 1,000 generated ones with several streams.
    for name in (*STANDARD, *MULTI_AGENT):
        requests = small(name).requests()
        n_prompt = sum(len(prompt_tokens(request)) for request in requests)
        n_answer = sum(request.fields["max_tokens"] for request in requests)
        assert n_prompt / 2000 + n_answer / 1000 < 100, name


def prompts(name: str) -> list[str]:
    return [request.fields["prompt"] for request in workload(name, seed=42).requests()]


def test_generative_agents_has_the_calls_the_order_and_the_sharing_of_the_recorded_ones() -> None:
    texts = prompts("generative_agents")
    kinds = Counter(text[:24] for text in texts)
    assert len(texts) == 200
    assert mean(map(len, texts)) == pytest.approx(883, rel=0.1)
    # sector, object, pronunciatio, triple, poignancy: calls, and characters that all calls of the kind share.
    expected = [(26, 1264), (26, 720), (51, 99), (51, 580), (46, 31)]
    found = []
    for begin in kinds:
        same = [text for text in texts if text.startswith(begin)]
        n_shared = next(i for i, letters in enumerate(zip(*same, strict=False)) if len(set(letters)) > 1)
        found.append((len(same), n_shared))
    for (n_calls, n_shared), (n_expected, n_shared_expected) in zip(sorted(found), sorted(expected), strict=True):
        assert n_calls == pytest.approx(n_expected, abs=2)
        assert n_shared == pytest.approx(n_shared_expected, rel=0.12)
    pieces = [text[: end + 64] for text in texts for end in range(0, len(text) - 63, 64)]
    assert 1 - len(set(pieces)) / len(pieces) == pytest.approx(0.87, abs=0.03)
    recorder = play(workload("generative_agents", seed=42))
    ends = [recorder.ended[each.agent, each.turn] for _, each in recorder.sent]
    assert all(begin_s >= end_s for (begin_s, _), end_s in zip(recorder.sent[1:], ends, strict=False))  # one at a time


@pytest.mark.parametrize(
    ("name", "n", "least", "most"), [("multiturn_short", 20, 4, 8), ("multiturn_long", 10, 64, 128)]
)
def test_conversations_share_nothing_and_every_turn_extends_the_last_one(
    name: str, n: int, least: int, most: int
) -> None:
    requests = workload(name, seed=42).requests()
    by_agent: dict[str, list[Request]] = {}
    for request in requests:
        by_agent.setdefault(request.agent, []).append(request)
        assert least <= request.fields["max_tokens"] <= most
    assert len(by_agent) == n
    assert {len(turns) for turns in by_agent.values()} == {4}
    for turns in by_agent.values():
        for turn, following in itertools.pairwise(turns):
            prompt, longer = turn.fields["prompt"], following.fields["prompt"]
            assert longer[: len(prompt)] == prompt
            assert 256 <= len(longer) - len(prompt) - turn.fields["max_tokens"] <= 512
    assert len({tuple(turns[0].fields["prompt"][:2]) for turns in by_agent.values()}) == n
    recorder = play(workload(name, seed=42))
    assert sum(begin_s == 0.0 for begin_s, _ in recorder.sent) == n  # all at once


def test_sharegpt_arrives_at_random_and_shares_nothing() -> None:
    requests = workload("sharegpt", seed=42).requests()
    recorder = play(workload("sharegpt", seed=42))
    assert len(requests) == 200
    assert recorder.sent[-1][0] == pytest.approx(50.0, rel=0.2)
    assert repeated_share(requests) == 0.0
    for request in requests:
        n_prompt, n_answer = len(request.fields["prompt"]), request.fields["max_tokens"]
        assert 4 <= n_prompt <= 1024
        assert n_answer >= 4
        assert n_prompt + n_answer <= 2048
    assert mean(len(request.fields["prompt"]) for request in requests) == pytest.approx(210, rel=0.15)
    assert mean(request.fields["max_tokens"] for request in requests) == pytest.approx(200, rel=0.15)


@pytest.mark.parametrize(
    ("name", "n"), [("guessing_game", 20), ("guessing_game_e2e", 800), ("guessing_game_e2e_cot", 800)]
)
def test_the_guessing_game_has_the_originals_pattern(name: str, n: int) -> None:
    game = workload(name, seed=42)
    assert isinstance(game, GuessingGame)
    assert game.n_requests == n * 5 * 2
    recorder = play(replace(game, n_participants=min(n, 40)))
    begins, ends = {}, {}
    for begin_s, request in recorder.sent:
        begins.setdefault(request.round, []).append(begin_s)
        ends.setdefault(request.round, []).append(recorder.ended[request.agent, request.turn])
    assert all(min(begins[index + 1]) >= max(ends[index]) for index in range(4))  # a barrier
    guesses = [request for request in game.requests() if not request.agent.endswith("/parser")]
    systems = {request.fields["messages"][0]["content"] for request in guesses}
    n_shared = next(i for i, letters in enumerate(zip(*systems, strict=False)) if len(set(letters)) > 1)
    assert len(systems) == n
    assert n_shared == pytest.approx(136, rel=0.1)
    assert mean(map(len, systems)) == pytest.approx(705 + 632 + 60, rel=0.1)
    own = [request.fields["messages"] for request in guesses if request.agent == "participant-00003"]
    assert all(later[: len(earlier)] == earlier for earlier, later in itertools.pairwise(own))
    said = [message["content"] for message in own[-1] if message["role"] == "assistant"]
    parsed = [
        request.fields["messages"][0]["content"]
        for request in game.requests()
        if request.agent == "participant-00003/parser"
    ]
    assert all(answer in prompt for answer, prompt in zip(said, parsed, strict=False))
    assert (mean(len(answer.split()) for answer in said) > 100) == ("cot" in name)


def test_bursts_have_the_rate_of_the_steady_arrivals_and_uneven_gaps() -> None:
    gaps_s = []
    for name in ("sharegpt", "sharegpt_bursts"):
        times_s = [begin_s for begin_s, _ in play(workload(name, seed=42)).sent]
        assert times_s[-1] == pytest.approx(50.0, rel=0.5)
        gaps_s.append([later - earlier for earlier, later in itertools.pairwise(times_s)])
    assert pstdev(gaps_s[0]) / mean(gaps_s[0]) == pytest.approx(1.0, abs=0.25)
    assert pstdev(gaps_s[1]) / mean(gaps_s[1]) > 2.0


def test_mmlu_has_two_prompts_per_question_and_hundreds_of_copies() -> None:
    swarm = workload("gptswarm_mmlu", seed=42)
    assert swarm.n_requests == 16000
    copies: dict[int, Counter[str]] = {}
    for request in swarm.requests():
        copies.setdefault(request.round, Counter())[json.dumps(request.fields["messages"])] += 1
    assert len(copies) == 20
    assert all(sorted(counter.values()) == [400, 400] for counter in copies.values())
    assert mean(len(prompt) for counter in copies.values() for prompt in counter) / 4.2 == pytest.approx(200, rel=0.25)


def test_agents_with_tools_pause_between_their_turns() -> None:
    each = workload("tool_agents", seed=42)
    recorder = play(each)
    pauses = [
        begin_s - recorder.ended[request.agent, request.turn - 1] for begin_s, request in recorder.sent if request.turn
    ]
    assert min(pauses) >= 0.1
    assert 5.0 < max(pauses) <= 20.0
    assert sum(pause <= 1.0 for pause in pauses) / len(pauses) == pytest.approx(0.8, abs=0.06)
    assert repeated_share(each.requests()) > 0.8


def test_research_shares_the_document_and_concludes_after_the_slowest_sub_agent() -> None:
    each = workload("deep_research", seed=42)
    recorder = play(each)
    research = [(begin_s, request) for begin_s, request in recorder.sent if request.agent.startswith("research-0002")]
    assert len({tuple(request.fields["prompt"][: 256 + 4096]) for _, request in research}) == 1
    workers = [request for _, request in research if "/" in request.agent]
    (conclusion_s,) = [begin_s for begin_s, request in research if "/" not in request.agent and request.turn == 1]
    assert conclusion_s >= max(recorder.ended[request.agent, request.turn] for request in workers)
    assert len({request.agent for request in workers}) == 8
    others = {tuple(request.fields["prompt"][256:300]) for _, request in recorder.sent}
    assert len(others) == 16


@pytest.mark.parametrize(
    ("name", "agents", "rounds"), [("rounds_a", 160, 5), ("rounds_b", 320, 5), ("rounds_c", 96, 4)]
)
def test_rounds_wait_for_the_last_agent(name: str, agents: int, rounds: int) -> None:
    assert workload(name, seed=1).n_requests == agents * rounds
    recorder = play(small(name))
    for index in range(1, rounds):
        begun_s = min(begin_s for begin_s, request in recorder.sent if request.round == index)
        before = [each for _, each in recorder.sent if each.round == index - 1]
        assert begun_s >= max(recorder.ended[each.agent, each.turn] for each in before)


def test_without_reuse_no_unit_is_repeated() -> None:
    assert repeated_share(workload("no_reuse", seed=3).requests()) == 0.0
    assert workload("no_reuse", seed=3).working_set_tokens == 0


@pytest.mark.parametrize("name", ["sharegpt", "multiturn_short", "tool_agents", "deep_research", "replay", "small"])
def test_prompts_stay_within_the_vocabulary(name: str) -> None:
    each = scaled(workload(name, seed=1, vocabulary=Vocabulary(50, 60)), 0.05)
    assert {token for request in each.requests() for token in request.fields["prompt"]} == set(range(50, 61))


def test_numbers_of_a_workload_can_follow_its_name() -> None:
    changed = workload("small:n_agents=7:n_rounds=2", seed=1)
    assert changed.n_requests == 14
    assert changed.name == "small:n_agents=7:n_rounds=2"
    assert changed.requests()[0].fields == workload("small", seed=1).requests()[0].fields
    half, whole = (play(workload(f"replay:n_requests_wanted=9:time_scale={scale}", seed=1)) for scale in (0.5, 1))
    assert half.sent[-1][0] == pytest.approx(whole.sent[-1][0] / 2)
    assert workload("app_guessing_game:n_participants=3:n_rounds=2", seed=1).n_requests == 6
    with pytest.raises(
        UserError, match="'agents' in 'small:agents=7' is no number of this workload: choose from n_agents"
    ):
        workload("small:agents=7", seed=1)
    with pytest.raises(UserError, match="n_agents is 'x' in 'small:n_agents=x': give a whole number"):
        workload("small:n_agents=x", seed=1)
    with pytest.raises(UserError, match="give more than 0"):
        workload("replay:time_scale=0", seed=1)


def test_unknown_names_and_numbers_are_one_clear_line() -> None:
    with pytest.raises(UserError, match="no workload 'sharegtp': choose from sharegpt, generative_agents"):
        workload("sharegtp", seed=1)
    with pytest.raises(UserError, match="seed is -1"):
        workload("small", seed=-1)
    for factor in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="--scale"):
            scaled(workload("small", seed=1), factor)


class Times:
    """A load in which every request takes a second."""

    def __init__(self) -> None:
        self.begun_s: dict[str, float] = {}

    @property
    def now_s(self) -> float:
        return asyncio.get_running_loop().time()

    async def send(self, request: Request, due_s: float | None = None) -> RequestRecord:
        if due_s is not None:
            await self.sleep_until(due_s)
        self.begun_s[request.agent] = self.now_s
        await asyncio.sleep(1.0)
        return RequestRecord(0.0, 1.0)

    async def gather(self, requests: Sequence[Request]) -> list[RequestRecord]:
        return list(await asyncio.gather(*(self.send(request) for request in requests)))

    async def sleep_until(self, due_s: float) -> None:
        await asyncio.sleep(max(0.0, due_s - self.now_s))


def test_steps_begin_in_turn_at_once_after_pauses_and_when_due() -> None:
    def call(name: str) -> Request:
        return Request("/completions", {}, name, 0)

    load = Times()
    step = InTurn(
        (
            call("first"),
            AtOnce((call("a"), InTurn((call("b"), Pause(0.5), call("c"))))),
            call("last"),
            Due(10.0, InTurn((call("due"), call("after")))),
        )
    )
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(perform(step, load))
    expected = {"first": 0, "a": 1, "b": 1, "c": 2.5, "last": 3.5, "due": 10, "after": 11}
    assert load.begun_s == pytest.approx(expected)


@given(st.lists(st.lists(st.integers(0, 3), max_size=100), max_size=12))
def test_repeated_tokens_are_those_of_whole_units_that_came_before(prompts: list[list[int]]) -> None:
    requests = [
        Request("/completions", {"prompt": prompt, "max_tokens": 1}, str(index), 0)
        for index, prompt in enumerate(prompts)
    ]
    seen: set[tuple[int, ...]] = set()
    n_repeated = 0
    for prompt in prompts:
        units = [tuple(prompt[:end]) for end in range(16, len(prompt) + 1, 16)]
        n_repeated += 16 * sum(unit in seen for unit in units)
        seen.update(units)
    n_all = sum(map(len, prompts))
    assert repeated_share(requests) == (n_repeated / n_all if n_all else 0.0)
