"""Generated traces are traces, the same for the same seed, and have the shapes that their families promise."""

from collections import Counter, defaultdict
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elmas.errors import UserError
from elmas.sim.generate import FAMILIES, TraceRecipe, generate
from elmas.sim.traces import Access, read_trace, write_trace

recipes = st.builds(
    TraceRecipe,
    family=st.sampled_from(list(FAMILIES)),
    n_sessions=st.integers(1, 30),
    seed=st.integers(0, 99),
    block_tokens=st.sampled_from([1, 16, 512]),
    load=st.sampled_from([0.5, 1.0, 20.0]),
)


def by_session(accesses: list[Access]) -> dict[str | None, list[Access]]:
    """Return each session's requests in order."""
    sessions = defaultdict(list)
    for access in accesses:
        sessions[access.session_id].append(access)
    return sessions


def trace(family: str, n_sessions: int, seed: int = 1) -> list[Access]:
    """Return a generated trace with blocks of 64 tokens."""
    return list(generate(TraceRecipe(family, n_sessions, seed, 64)))


@settings(max_examples=40)
@given(recipes)
def test_a_generated_trace_is_valid_and_the_same_for_the_same_recipe(
    tmp_path_factory: pytest.TempPathFactory, recipe: TraceRecipe
) -> None:
    path = tmp_path_factory.getbasetemp() / "generated.jsonl"
    accesses = list(generate(recipe))
    assert accesses == list(generate(recipe))
    write_trace(path, accesses)
    read = list(read_trace(path, recipe.block_tokens))
    assert [access.hash_ids for access in read] == [access.hash_ids for access in accesses]
    assert len({access.session_id for access in accesses}) >= recipe.n_sessions * 0.5


@settings(max_examples=40)
@given(recipes)
def test_a_block_always_has_the_same_blocks_before_it(recipe: TraceRecipe) -> None:
    parent: dict[int, int] = {}
    for access in generate(recipe):
        for before, block in pairwise((-1, *access.hash_ids, *access.out_hash_ids)):
            assert parent.setdefault(block, before) == before


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "swarm"])
def test_a_session_goes_on_where_its_last_answer_ended(family: str) -> None:
    for requests in by_session(trace(family, 40)).values():
        for before, after in pairwise(requests):
            known = before.hash_ids + before.out_hash_ids
            assert after.hash_ids[: len(known)] == known
            assert after.arrival_s > before.arrival_s


def test_rounds_call_everybody_in_the_same_order() -> None:
    names = [access.session_id for access in trace("cyclic", 20)]
    assert names == names[:20] * (len(names) // 20)


def test_shuffled_rounds_call_everybody_in_another_order() -> None:
    names = [access.session_id for access in trace("cyclic-shuffled", 20)]
    rounds = [names[i : i + 20] for i in range(0, len(names), 20)]
    assert all(sorted(names) == sorted(rounds[0]) for names in rounds)
    assert len(set(map(tuple, rounds))) == len(rounds)


def test_churn_skips_a_tenth_and_replaces_three_in_a_hundred() -> None:
    n_rounds = 12
    accesses = trace("cyclic-churn", 1000)
    n_sessions = len(by_session(accesses))
    assert len(accesses) == pytest.approx(0.9 * n_rounds * 1000, rel=0.02)
    assert n_sessions - 1000 == pytest.approx(0.03 * (n_rounds - 1) * 1000, rel=0.2)


def test_pauses_of_tool_agents_have_the_shares_that_were_promised() -> None:
    sessions = by_session(trace("tool-agents", 2000)).values()
    pauses_s = np.array([b.arrival_s - a.arrival_s - 0.5 for requests in sessions for a, b in pairwise(requests)])
    assert np.mean(pauses_s < 1) == pytest.approx(0.86, abs=0.02)
    assert np.mean((pauses_s >= 1) & (pauses_s < 10)) == pytest.approx(0.09, abs=0.02)
    assert np.mean(pauses_s >= 10) == pytest.approx(0.05, abs=0.02)
    assert pauses_s.max() < 120.001


def test_scans_are_about_a_third_of_the_input_and_come_once() -> None:
    accesses = trace("scans", 6000)
    sessions = by_session(accesses).values()
    seen = Counter(block for access in accesses for block in access.hash_ids)
    scans = [requests[0] for requests in sessions if len(requests) == 1 and seen[requests[0].hash_ids[0]] == 1]
    share = sum(scan.input_tokens for scan in scans) / sum(access.input_tokens for access in accesses)
    assert share == pytest.approx(0.35, abs=0.03)


def test_most_chats_never_return_and_few_system_prompts_serve_most() -> None:
    accesses = trace("chats", 2000)
    sessions = by_session(accesses).values()
    assert np.mean([len(requests) == 1 for requests in sessions]) == pytest.approx(0.75, abs=0.03)
    uses = sorted(Counter(requests[0].hash_ids[0] for requests in sessions).values(), reverse=True)
    assert len(uses) == 12
    assert sum(uses[:3]) > len(sessions) / 2


def test_a_question_has_two_prompts_that_many_agents_share() -> None:
    accesses = trace("swarm", 100)
    assert all(len(requests) == 2 for requests in by_session(accesses).values())
    prompts = Counter(access.hash_ids[:-1] for access in accesses)
    assert set(prompts.values()) == {20}
    assert len(prompts) == 2 * 100 / 20


@pytest.mark.parametrize("family", FAMILIES)
def test_load_makes_sessions_come_more_often(family: str) -> None:
    last_usual_s, last_busy_s = (
        max(
            requests[0].arrival_s
            for requests in by_session(list(generate(TraceRecipe(family, 1000, 1, 64, load)))).values()
        )
        for load in (1.0, 4.0)
    )
    assert last_busy_s < 0.5 * last_usual_s


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trace_of_a_million_sessions_begins_at_once(family: str) -> None:
    assert len(list(islice(generate(TraceRecipe(family, 1_000_000)), 100))) == 100


@pytest.mark.parametrize(
    "given_",
    [{"family": "robots"}, {"n_sessions": 0}, {"seed": -1}, {"block_tokens": 0}, {"load": 0.0}, {"load": float("nan")}],
)
def test_a_recipe_that_makes_no_trace_is_refused(given_: dict[str, object]) -> None:
    with pytest.raises(UserError):
        TraceRecipe(**({"family": "cyclic", "n_sessions": 1} | given_))  # type: ignore[arg-type]


def test_the_file_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    for path, seed in ((first, 1), (second, 1), (other, 2)):
        write_trace(path, generate(TraceRecipe("chats", 20, seed)))
    assert first.read_bytes() == second.read_bytes() != other.read_bytes()
