"""The shapes agree with the sizes that their publishers state."""

import pytest

from elmas.errors import UserError
from elmas.models.presets import PRESETS, TOKENIZER_VOCABULARY, find_preset, kv_bytes_per_token, n_parameters


@pytest.mark.parametrize(
    ("name", "parameters", "kv_bytes"),
    [
        ("llama-3.2-1b", 1_235_814_400, 32 << 10),
        ("llama-3-8b", 8_030_261_248, 128 << 10),
        ("qwen3-32b", 32_762_123_264, 256 << 10),
        ("llama-3-70b", 70_553_706_496, 320 << 10),
    ],
)
def test_published_sizes(name: str, parameters: int, kv_bytes: int) -> None:
    preset = find_preset(name)
    assert n_parameters(preset) == parameters
    assert kv_bytes_per_token(preset) == kv_bytes
    assert preset.dtype == "bfloat16"
    assert not preset.has_weights


def test_every_shape_holds_the_tokenizer_and_only_tiny_is_exactly_as_large() -> None:
    sizes = {name: preset.vocab_size for name, preset in PRESETS.items()}
    assert sizes.pop("tiny") == TOKENIZER_VOCABULARY
    assert all(size > TOKENIZER_VOCABULARY for size in sizes.values())


def test_names_are_found_in_any_case() -> None:
    assert find_preset("Llama-3-8B") is PRESETS["llama-3-8b"]
    assert find_preset("3.2-1b") is PRESETS["llama-3.2-1b"]


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"unknown model 'gpt': choose one of tiny, llama-3\.2-1b"):
        find_preset("gpt")
