"""The tokenizer: any text survives it, and a conversation that grows keeps its first tokens."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from elmas.models import tokenizer
from elmas.models.presets import TOKENIZER_VOCABULARY

Message = dict[str, Any]

MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": st.text()}),
    min_size=1,  # transformers refuses an empty conversation
    max_size=5,
)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = tmp_path_factory.mktemp("tokenizer")
    tokenizer.write_tokenizer(directory, max_positions=4096)
    return AutoTokenizer.from_pretrained(directory)


def render(loaded: Any, messages: list[Message], prompt: bool = False) -> str:
    return str(loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt))


def ids(loaded: Any, text: str) -> list[int]:
    return list(loaded.encode(text, add_special_tokens=False))


def test_transformers_loads_it_as_a_fast_tokenizer(loaded: Any) -> None:
    assert isinstance(loaded, PreTrainedTokenizerFast)
    assert len(loaded) == TOKENIZER_VOCABULARY
    assert loaded.eos_token == tokenizer.END
    assert loaded.eos_token_id == tokenizer.token_id(tokenizer.END)
    assert loaded.pad_token_id == tokenizer.token_id(tokenizer.PAD)
    assert loaded.model_max_length == 4096


@given(st.text())
def test_any_text_survives(loaded: Any, text: str) -> None:
    encoded = ids(loaded, text)
    assert all(0 <= index < TOKENIZER_VOCABULARY for index in encoded)
    assert loaded.decode(encoded, skip_special_tokens=False) == text


def test_digits_and_newlines_are_single_tokens(loaded: Any) -> None:
    assert loaded.decode(ids(loaded, "1024")) == "1024"
    assert len(ids(loaded, "1024")) == 4
    assert len(ids(loaded, "\n\n\n")) == 3


def test_an_unknown_special_token_is_an_error() -> None:
    with pytest.raises(KeyError):
        tokenizer.token_id("<|nothing|>")


def test_chat_template_is_chatml(loaded: Any) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello\n"}]
    expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello\n<|im_end|>\n"
    assert render(loaded, messages) == expected
    assert render(loaded, messages, prompt=True) == expected + "<|im_start|>assistant\n"


def test_chat_template_renders_tool_calls(loaded: Any) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    messages = [{"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "content": "2"}]
    first, second, rest = render(loaded, messages).split("<|im_end|>\n")
    header, body, line = first.split("\n")
    assert (header, body) == ("<|im_start|>assistant", "")
    assert json.loads(line) == {"name": "add", "arguments": {"a": 1}}
    assert second == "<|im_start|>tool\n2"
    assert rest == ""


@settings(max_examples=50)
@given(MESSAGES, MESSAGES)
def test_a_longer_conversation_begins_with_the_shorter_one(
    loaded: Any, first: list[Message], then: list[Message]
) -> None:
    shorter, longer = render(loaded, first), render(loaded, first + then)
    assert longer.startswith(shorter)
    short_ids = ids(loaded, shorter)
    assert ids(loaded, longer)[: len(short_ids)] == short_ids


@settings(max_examples=50)
@given(MESSAGES, st.lists(st.sampled_from(tokenizer.output_ids()), max_size=20))
def test_a_generated_answer_returns_as_the_same_tokens(loaded: Any, messages: list[Message], answer: list[int]) -> None:
    prompt_ids = ids(loaded, render(loaded, messages, prompt=True))
    history = [
        *messages,
        {"role": "assistant", "content": loaded.decode(answer)},
        {"role": "user", "content": "Go on."},
    ]
    assert ids(loaded, render(loaded, history))[: len(prompt_ids) + len(answer)] == prompt_ids + answer


def test_files_are_deterministic(tmp_path: Path) -> None:
    contents = []
    for name in ("one", "two"):
        tokenizer.train.cache_clear()
        (tmp_path / name).mkdir()
        tokenizer.write_tokenizer(tmp_path / name, max_positions=4096)
        contents.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert contents[0] == contents[1]
    assert set(contents[0]) == {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
