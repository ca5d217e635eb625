"""What workloads read: recorded data in its published formats, traces, and the script of the applications' answers."""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elmas.bench.workloads.catalog import scaled, workload
from elmas.bench.workloads.datasets import n_tokens, read_sharegpt
from elmas.bench.workloads.replay import Replay
from elmas.bench.workloads.scripted_answers import answer_text
from elmas.bench.workloads.sizes import prompt_tokens
from elmas.bench.workloads.workload import Datasets, Vocabulary
from elmas.errors import UserError


def conversation(*texts: str) -> dict[str, Any]:
    return {"id": "x", "conversations": [{"from": "human", "value": text} for text in texts]}


def written(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_sharegpt_takes_the_first_two_turns_that_the_filter_keeps(tmp_path: Path) -> None:
    good = [conversation(f"What is {number}, and why is it so?", "a" * 4 * (number + 4), "more") for number in range(9)]
    bad = [
        conversation("only one turn"),
        conversation("hi", "too short a question " * 4),
        conversation("A question", "no"),
        conversation("long " * 1200, "answer " * 20),
        conversation("A question of some length", "long " * 2000),
    ]
    path = written(tmp_path / "sharegpt.json", [*bad, *good])
    pairs = read_sharegpt(path, 9, seed=1)
    assert sorted(pair.answer_tokens for pair in pairs) == list(range(4, 13))
    assert pairs != read_sharegpt(path, 9, seed=2)
    with pytest.raises(UserError, match="9 usable conversations, 10 are needed: lower --scale"):
        read_sharegpt(path, 10, seed=1)


def test_sharegpt_as_a_workload_sends_the_recorded_questions(tmp_path: Path) -> None:
    entries = [conversation(f"Question {number} of many, is it not?", "word " * 40) for number in range(30)]
    path = written(tmp_path / "s.json", entries)
    each = scaled(workload("sharegpt", seed=1, datasets=Datasets(sharegpt=path)), 0.1)
    assert each.source() == str(path)
    requests = each.requests()
    assert len(requests) == 20
    assert all(re.match(r"Question \d+ of many", request.fields["prompt"]) for request in requests)
    assert {request.fields["max_tokens"] for request in requests} == {n_tokens("word " * 40)}


@pytest.mark.parametrize(
    "content",
    ["not json", {"data": []}, ["text"], [{"items": []}], [{"conversations": [{"value": 1}, {"value": "b"}]}]],
)
def test_a_sharegpt_file_in_another_format_is_one_clear_line(tmp_path: Path, content: Any) -> None:
    with pytest.raises(UserError, match=r"ShareGPT_V3_unfiltered_cleaned_split\.json"):
        read_sharegpt(written(tmp_path / "s.json", content), 1, seed=1)


def test_files_that_cannot_be_read_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*: give the path of the data set"):
        read_sharegpt(tmp_path / "missing.json", 1, seed=1)
    (tmp_path / "binary").write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(UserError, match="unpacked"):
        read_sharegpt(tmp_path / "binary", 1, seed=1)


def test_mmlu_is_read_from_its_directory_and_shuffled(tmp_path: Path) -> None:
    for subject in ("law", "chess"):
        lines = [f'"{subject} {n}, or not?",one,two,"three, or so",four,C' for n in range(10)]
        written(tmp_path / f"{subject}_val.csv", "\n".join(lines) + "\n")
    each = scaled(workload("gptswarm_mmlu", seed=1, datasets=Datasets(mmlu=tmp_path)), 0.05)
    asked = {request.fields["messages"][1]["content"] for request in each.requests()}
    assert len(asked) == 8  # four questions, truly and falsely
    assert sum("C. three, or so" in text for text in asked) == 8
    first = scaled(workload("gptswarm_mmlu", seed=2, datasets=Datasets(mmlu=tmp_path)), 0.05).requests()[0]
    assert first.fields != each.requests()[0].fields


@pytest.mark.parametrize("content", ["question,A,B,C,D,answer\n", "a,b,c\n", "q,1,2,3,4,E\n"])
def test_an_mmlu_file_in_another_format_is_one_clear_line(tmp_path: Path, content: str) -> None:
    path = written(tmp_path / "x.csv", content)
    with pytest.raises(UserError, match=r"x.csv, row 1: give CSV lines of question, four options"):
        workload("gptswarm_mmlu", seed=1, datasets=Datasets(mmlu=path)).requests()
    path = written(tmp_path / "x.csv", "q,1,2,3,4,A\n")
    with pytest.raises(UserError, match="1 questions, 20 are needed: lower --scale"):
        workload("gptswarm_mmlu", seed=1, datasets=Datasets(mmlu=path)).requests()


def replay(path: Path | None, **changes: Any) -> Replay:
    numbers: dict[str, Any] = {
        "n_requests_wanted": 10,
        "time_scale": 1.0,
        "block_tokens": 32,
        "most_prompt_tokens": 1000,
        "most_answer_tokens": 50,
        "seed": 1,
    }
    return Replay("replay", **{**numbers, **changes}, vocabulary=Vocabulary(), trace=path)


@given(
    st.lists(
        st.tuples(st.lists(st.integers(-5, 9), min_size=1, max_size=6, unique=True), st.integers(1, 32)),
        min_size=2,
        max_size=6,
    )
)
def test_prompts_of_a_trace_share_exactly_what_their_blocks_share(requests: list[tuple[list[int], int]]) -> None:
    # Equal numbers are equal blocks, wherever they stand; a last block may be partial.
    lines = [
        {
            "timestamp": 100 * index,
            "input_length": 32 * (len(hash_ids) - 1) + n_last,
            "output_length": 3,
            "hash_ids": hash_ids,
        }
        for index, (hash_ids, n_last) in enumerate(requests)
    ]
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
        file.flush()
        prompts = [request.fields["prompt"] for request in replay(Path(file.name)).requests()]
    assert [len(prompt) for prompt in prompts] == [line["input_length"] for line in lines]
    for (ids, _), prompt in zip(requests, prompts, strict=True):
        for (other_ids, _), other in zip(requests, prompts, strict=True):
            for at, hash_id in enumerate(ids):
                for other_at, other_id in enumerate(other_ids):
                    block = prompt[32 * at : 32 * at + 32]
                    same = other[32 * other_at : 32 * other_at + 32]
                    n = min(len(block), len(same))
                    if hash_id == other_id:
                        assert block[:n] == same[:n]
                    elif n >= 4:
                        assert block[:n] != same[:n]


def test_a_trace_is_played_at_its_times_by_session(tmp_path: Path) -> None:
    lines = [
        {"timestamp": 1000, "input_length": 40, "output_length": 5, "hash_ids": [1, 2], "session_id": "a"},
        {"timestamp": 1500, "input_length": 90, "output_length": 0, "hash_ids": [1, 2], "session_id": "a"},
        {"timestamp": 3000, "input_length": 5000, "output_length": 700, "hash_ids": list(range(156))},
    ]
    path = written(tmp_path / "t.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    each = replay(path, time_scale=0.5)
    steps = each.make_script()
    assert [step.due_s for step in steps.steps] == [0.0, 0.25, 1.0]  # type: ignore[union-attr]
    requests = each.requests()
    assert [(request.agent, request.turn) for request in requests] == [
        ("session-a", 0),
        ("session-a", 1),
        ("request-2", 0),
    ]
    assert [len(prompt_tokens(request)) for request in requests] == [40, 90, 1000]  # the last one is cut
    assert [request.fields["max_tokens"] for request in requests] == [5, 1, 50]
    assert requests[0].fields["prompt"] == requests[1].fields["prompt"][:40]
    assert each.source() == str(path)


def test_bad_traces_and_numbers_are_one_clear_line(tmp_path: Path) -> None:
    path = written(tmp_path / "t.jsonl", '{"timestamp": 0}\n')
    with pytest.raises(UserError, match=r"t.jsonl, line 1: input_length is None"):
        replay(path).requests()
    with pytest.raises(UserError, match="has no requests"):
        replay(written(tmp_path / "t.jsonl", "\n")).requests()
    with pytest.raises(UserError, match="time scale is 0"):
        replay(path, time_scale=0)


SCHEMAS = st.recursive(
    st.one_of(
        st.builds(
            lambda least, more: {"type": "integer", "minimum": least, "maximum": least + more},
            st.integers(-9, 9),
            st.integers(0, 9),
        ),
        st.builds(
            lambda least, more: {"type": "string", "minLength": least, "maxLength": least + more},
            st.integers(0, 40),
            st.integers(0, 40),
        ),
        st.builds(
            lambda values: {"type": "string", "enum": values}, st.lists(st.text(max_size=5), min_size=1, unique=True)
        ),
        st.sampled_from(
            [
                {"type": "boolean"},
                {"type": "number", "minimum": 0, "maximum": 1},
                {"type": "string", "pattern": "^[A-Z]{5}$", "minLength": 5, "maxLength": 5},
            ]
        ),
    ),
    lambda inner: st.one_of(
        st.builds(
            lambda items, least, more: {"type": "array", "items": items, "minItems": least, "maxItems": least + more},
            inner,
            st.integers(0, 3),
            st.integers(0, 3),
        ),
        st.builds(
            lambda properties: {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            },
            st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
        ),
    ),
    max_leaves=6,
)


@given(SCHEMAS, st.integers(0, 2**32 - 1))
def test_scripted_answers_fit_every_schema_and_depend_on_the_seed_alone(schema: dict[str, Any], seed: int) -> None:
    text = answer_text(np.random.default_rng(seed), schema, 100)
    jsonschema.validate(json.loads(text), schema)
    assert text == answer_text(np.random.default_rng(seed), schema, 100)


def test_without_a_schema_the_script_has_words() -> None:
    lengths = {len(answer_text(np.random.default_rng(seed), None, 40).split()) for seed in range(200)}
    assert (min(lengths), max(lengths)) == (20, 40)


def test_an_unknown_schema_is_an_error() -> None:
    with pytest.raises(ValueError, match="no answer is known"):
        answer_text(np.random.default_rng(0), {"type": "null"}, 10)
