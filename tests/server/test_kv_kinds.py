"""Quantised KV, latent attention, two ranks: every kind of KV comes back as it was. All of it on a GPU, latent
attention also without one.

A request that is alone and finds the same blocks gets the same log-probabilities to the last bit, wherever the blocks
came from. The weights are random but not vLLM's dummies, with which hardly anything depends on the KV.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import torch
from transformers import DeepseekV2Config, DeepseekV2ForCausalLM

from elmas.bench.arms import ServerShape, arm_command, ensure_tiny_model, running_server
from elmas.models.presets import TOKENIZER_VOCABULARY
from elmas.serve.process import ServerProcess
from tests.server.client import Answer, complete, complete_all, tokens

pytestmark = pytest.mark.server

ON_GPU = torch.cuda.is_available()

BLOCK_SIZE = 64
"""The largest that an attention backend of these models asks for."""

LATENT_ATTENTION = {
    "hidden_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "kv_lora_rank": 512,
    "q_lora_rank": None,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "intermediate_size": 2816,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "first_k_dense_replace": 4,  # all layers are dense
    "max_position_embeddings": 4096,
    "vocab_size": TOKENIZER_VOCABULARY,
    "initializer_range": 0.06,
}


DTYPE = ("--dtype", "bfloat16") if ON_GPU else ("--dtype", "float32", "--max-num-batched-tokens", "512")

N_AGENTS = 48 if ON_GPU else 8
MOST_OWN_BLOCKS = 16 if ON_GPU else 5


@dataclass(frozen=True)
class Variant:
    """A server that stores its KV in another way than the others."""

    name: str
    vllm_arguments: tuple[str, ...] = ()
    has_latent_attention: bool = False
    n_gpus: int = 1
    runs_on_cpu: bool = False


VARIANTS = (
    Variant("bfloat16"),
    Variant("fp8", ("--kv-cache-dtype", "fp8")),
    Variant("latent attention", has_latent_attention=True, runs_on_cpu=True),
    Variant("two ranks", ("--tensor-parallel-size", "2"), n_gpus=2),
)


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda variant: variant.name.replace(" ", "-"))
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """MT-APC whose device cache, and whose host memory, have room for everything."""
    variant = request.param
    if torch.cuda.device_count() < variant.n_gpus and (ON_GPU or not variant.runs_on_cpu):
        pytest.skip(f"CUDA GPUs needed: {variant.n_gpus}")
    directory: Path = tmp_path_factory.mktemp("model") / "tiny"
    ensure_tiny_model(directory)
    if variant.has_latent_attention:
        for weights in directory.glob("*.safetensors*"):
            weights.unlink()
        torch.manual_seed(0)
        DeepseekV2ForCausalLM(DeepseekV2Config(**LATENT_ATTENTION)).save_pretrained(directory)
    shape = ServerShape(
        directory,
        n_device_blocks=1024,
        max_model_len=4096,
        host_memory="4GiB" if ON_GPU else "512MiB",
        max_running=64,
        block_size=BLOCK_SIZE,
        vllm_arguments=(*DTYPE, *variant.vllm_arguments),
    )
    with running_server(arm_command("mt-apc", shape), tmp_path_factory.mktemp("log") / "server.log") as (process, _):
        yield process


def metric(server: ServerProcess, name: str) -> float:
    return sum(server.metrics().get(name, {}).values())


def alone(server: ServerProcess, prompts: list[list[int]]) -> list[Answer]:
    return [complete(server.base_url, prompt, 8)[0] for prompt in prompts]


def test_blocks_from_host_memory_are_those_that_were_stored(server: ServerProcess) -> None:
    # One token more than whole blocks: no answer ever completes a block, so nothing is cached but the prompts.
    system = tokens(0, 4 * BLOCK_SIZE)
    lengths = [(2 + agent % (MOST_OWN_BLOCKS - 1)) * BLOCK_SIZE + 1 for agent in range(N_AGENTS)]
    prompts = [system + tokens(1 + agent, length) for agent, length in enumerate(lengths)]
    complete_all(server.base_url, prompts, 8)
    expected = alone(server, prompts)
    assert all(answer.n_cached == len(prompt) - 1 for answer, prompt in zip(expected, prompts, strict=True))
    # If other blocks gave the same numbers, equal numbers would prove nothing.
    others = alone(server, [tokens(1000, 4 * BLOCK_SIZE) + prompt[4 * BLOCK_SIZE :] for prompt in prompts])
    assert all(one.gaps != other.gaps for one, other in zip(expected, others, strict=True))

    end_s = time.monotonic() + 30
    while metric(server, "vllm:num_requests_running") and time.monotonic() < end_s:
        time.sleep(0.2)
    httpx.post(f"{server.base_url}/reset_prefix_cache", timeout=10).raise_for_status()  # the device's only
    before = metric(server, "elmas:load_blocks_total")
    loaded = complete_all(server.base_url, prompts, 8)
    assert all(answer.n_cached == len(prompt) - 1 for answer, prompt in zip(loaded, prompts, strict=True))
    n_blocks = 4 + sum(len(prompt) // BLOCK_SIZE - 4 for prompt in prompts)
    assert metric(server, "elmas:load_blocks_total") - before >= n_blocks
    # All were loaded at once; now they are on the device, where each is asked for alone again.
    assert alone(server, prompts) == expected
