"""The tiny model is an instrument: greedy tokens depend on the context and on nothing else."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from elmas.models import tokenizer
from elmas.models.presets import PRESETS, n_parameters
from elmas.models.writer import write_model


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "tiny"
    write_model(PRESETS["tiny"], directory)
    return directory


@pytest.fixture(scope="module")
def language_model(directory: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory).eval()


@pytest.fixture(scope="module")
def prompt_ids() -> torch.Tensor:
    return torch.tensor([tokenizer.train().encode(tokenizer.corpus()[0]).ids[:500]])


def logits(model: Any, ids: torch.Tensor, chunk_tokens: int) -> torch.Tensor:
    """Return the logits (positions, vocabulary) of one prompt, computed `chunk_tokens` at a time."""
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        parts = [model(part, past_key_values=cache, use_cache=True).logits for part in ids.split(chunk_tokens, dim=1)]
    return torch.cat(parts, dim=1)[0]


def test_names_and_shapes_are_what_transformers_expects(directory: Path, language_model: Any) -> None:
    state = load_file(directory / "model.safetensors")
    language_model.load_state_dict(state, strict=True)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert sum(tensor.numel() for tensor in state.values()) == n_parameters(PRESETS["tiny"])
    assert language_model.dtype == torch.float32


def test_vocabulary_is_exactly_the_tokenizers(directory: Path, language_model: Any) -> None:
    assert language_model.config.vocab_size == len(AutoTokenizer.from_pretrained(directory))
    assert language_model.get_output_embeddings().weight.shape[0] == language_model.config.vocab_size


def test_greedy_tokens_do_not_depend_on_chunking(language_model: Any, prompt_ids: torch.Tensor) -> None:
    whole = logits(language_model, prompt_ids, 500)
    chunked = logits(language_model, prompt_ids, 32)
    assert torch.equal(whole.argmax(-1), chunked.argmax(-1))
    # Not by luck: the usual gap between the two largest logits is far above the noise.
    largest = whole.topk(2).values
    gap = (largest[:, 0] - largest[:, 1]).median()
    assert (whole - chunked).abs().mean() < 1e-4 * gap


def test_an_early_token_changes_late_ones(language_model: Any, prompt_ids: torch.Tensor) -> None:
    other_ids = prompt_ids.clone()
    other_ids[0, 3] = 100 if other_ids[0, 3] != 100 else 101
    late, other_late = (logits(language_model, ids, 500)[400:] for ids in (prompt_ids, other_ids))
    changed = (late.argmax(-1) != other_late.argmax(-1)).float().mean()
    assert changed > 0.2


def test_only_whole_words_and_digits_are_generated_and_they_vary(language_model: Any, prompt_ids: torch.Tensor) -> None:
    next_ids = logits(language_model, prompt_ids, 500).argmax(-1).tolist()
    assert set(next_ids) <= set(tokenizer.output_ids())
    assert len(set(next_ids)) > 100
