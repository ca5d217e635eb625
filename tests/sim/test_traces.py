"""Traces survive being written and read, and a mistake in one is named with its line and what to change."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elmas.cache.hints import Hints
from elmas.errors import UserError
from elmas.sim.packed import pack_trace
from elmas.sim.parts import Part
from elmas.sim.replicas import part_of
from elmas.sim.traces import Access, read_trace, write_trace

LINE = {"timestamp": 0, "input_length": 1100, "output_length": 600, "hash_ids": [1, 2, 3], "out_hash_ids": [4]}


def write_lines(path: Path, *changes: dict[str, object]) -> Path:
    """Write one line for each change of LINE; None takes a field away."""
    lines = [{k: v for k, v in (LINE | change).items() if v is not None} for change in changes]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def _in_order(pairs: list[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    return tuple(sorted(pairs))


accesses = st.builds(
    lambda ms, n_prompt, n_answer, first, session, hints: Access(
        arrival_s=ms / 1e3,
        input_tokens=16 * n_prompt,
        output_tokens=16 * n_answer + 1,
        hash_ids=tuple(range(first, first + n_prompt)),
        out_hash_ids=tuple(range(first + n_prompt, first + n_prompt + n_answer)),
        session_id=session,
        hints=hints,
    ),
    st.integers(0, 10**9),
    st.integers(1, 5),
    st.integers(0, 3),
    st.integers(-(2**62), 2**62),
    st.none() | st.text(min_size=1),
    st.none()
    | st.builds(
        Hints,
        next_use_s=st.none() | st.floats(0, 1e6),
        ttl_s=st.none() | st.floats(0, 1e6),
        priority=st.floats(0.1, 10),
        is_done=st.booleans(),
        prefixes=st.none() | st.lists(st.tuples(st.integers(1, 10**6), st.floats(0, 1e6)), max_size=3).map(_in_order),
    ),
)


@given(st.lists(accesses, max_size=8))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, requests: list[Access]) -> None:
    path = tmp_path_factory.getbasetemp() / "trace.jsonl"
    requests = sorted(requests, key=lambda access: access.arrival_s)
    assert write_trace(path, requests) == len(requests)
    assert list(read_trace(path, 16)) == requests


@given(st.lists(accesses, min_size=1, max_size=8))
def test_a_packed_trace_has_the_blocks_of_every_request_and_equal_numbers_where_they_are_equal(
    requests: list[Access],
) -> None:
    packed = pack_trace(requests, 16)
    numbers: dict[int, int] = {}
    for index, access in enumerate(requests):
        blocks = packed.blocks[packed.starts[index] : packed.starts[index + 1]].tolist()
        given_ids = (*access.hash_ids, *access.out_hash_ids)
        assert packed.n_prompt[index] == len(access.hash_ids)
        assert [numbers.setdefault(i, block) for i, block in zip(given_ids, blocks, strict=True)] == blocks
    assert len(set(numbers.values())) == len(numbers)
    assert packed.prompt_tokens == sum(access.input_tokens for access in requests)
    assert packed.n_sessions == len({access.session_id for access in requests} - {None})


@given(st.lists(accesses, max_size=8), st.integers(1, 3), st.sampled_from([(",", ":"), (", ", ": ")]))
def test_the_parts_of_a_trace_are_those_that_reading_all_of_it_gives(
    tmp_path_factory: pytest.TempPathFactory, requests: list[Access], n: int, separators: tuple[str, str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "parts.jsonl"
    write_trace(path, sorted(requests, key=lambda access: access.arrival_s))
    lines = [json.dumps(json.loads(line), separators=separators) for line in path.read_text().splitlines()]
    path.write_text("\n\n".join(lines))
    everything = list(read_trace(path, 16))
    for index in range(n):
        assert list(read_trace(path, 16, Part(index, n))) == list(part_of(everything, Part(index, n)))


@pytest.mark.parametrize(
    "change",
    [{"timestamp": 4}, {"hash_ids": [1, 2, 1]}, {"hash_ids": []}, {"output_length": -1}, {"session_id": [1]}],
)
def test_a_mistake_is_found_in_one_of_the_parts(tmp_path: Path, change: dict[str, object]) -> None:
    path = write_lines(tmp_path / "trace.jsonl", {"timestamp": 5}, {"timestamp": 5} | change)
    with pytest.raises(UserError, match=r"trace.jsonl, line 2"):
        [list(read_trace(path, part=Part(index, 2))) for index in range(2)]


def test_lines_of_mooncake_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(
        '{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, 48, 49, 50, 51, 52, 53, '
        "54, 55, 56, 57, 58, 2354]}\n\n"
    )
    (access,) = read_trace(path)
    assert access.arrival_s == 27.482
    assert access.hash_ids[-1] == 2354
    assert access.out_hash_ids == ()
    assert access.session_id is None


def test_a_partial_last_block_may_be_left_out(tmp_path: Path) -> None:
    (access,) = read_trace(write_lines(tmp_path / "trace.jsonl", {"hash_ids": [1, 2]}))
    assert access.hash_ids == (1, 2)


def test_hits_are_never_more_tokens_than_the_prompt_has() -> None:
    packed = pack_trace([Access(0.0, 1100, 0, (1, 2, 3))], 512)
    assert packed.hit_tokens(packed.n_prompt) == 1100


def test_hints_that_make_no_sense_are_ignored_as_in_a_server(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "trace.jsonl", {"hints": {"next_use_s": -1, "ttl_s": 3, "colour": "red"}})
    assert next(read_trace(path)).hints == Hints(ttl_s=3)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"timestamp": None}, "timestamp is None"),
        ({"timestamp": "soon"}, "timestamp is 'soon'"),
        ({"timestamp": -1}, "timestamp is -1"),
        ({"input_length": 0}, "input_length is 0"),
        ({"input_length": True}, "input_length is True"),
        ({"output_length": 1.5}, "output_length is 1.5"),
        ({"hash_ids": [1, 2, "3"]}, "hash_ids is not a list of whole numbers"),
        ({"hash_ids": None}, "hash_ids is not a list of whole numbers"),
        ({"hash_ids": [1, 2, 2**63]}, "beyond 64 bits"),
        ({"hash_ids": [1]}, "1 hash_ids for 1100 input tokens in blocks of 512: give 3"),
        ({"hash_ids": [1, 2, 3, 5]}, "--block-size"),
        ({"out_hash_ids": [4, 5, 6]}, "3 out_hash_ids for 600 output tokens"),
        ({"hash_ids": [1, 2, 1]}, "a block is twice in the request"),
        ({"out_hash_ids": [3]}, "a block is twice in the request"),
        ({"session_id": [1]}, r"session_id is \[1\]"),
        ({"hints": 3}, "hints is 3"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, change: dict[str, object], expected: str) -> None:
    path = write_lines(tmp_path / "trace.jsonl", {}, change)
    with pytest.raises(UserError, match=rf"trace.jsonl, line 2: .*{expected}"):
        list(read_trace(path))


def test_times_that_go_backwards_are_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "trace.jsonl", {"timestamp": 5}, {"timestamp": 4})
    with pytest.raises(UserError, match="line 2: timestamp 4 is before the 5 above it: sort"):
        list(read_trace(path))


@pytest.mark.parametrize("text", ["[]\n", "{\n", "nothing\n", "\xff\n"])
def test_what_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match="line 1: not a JSON object"):
        list(read_trace(path))


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .* give the path of a trace file"):
        list(read_trace(tmp_path / "nothing"))
    with pytest.raises(UserError, match=r"cannot write .* choose another file"):
        write_trace(tmp_path / "nowhere" / "file", [])
