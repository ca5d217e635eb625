"""What a step costs: machines and model shapes as data, and the time of one scheduling step that follows from them.

A step's time is a sum (the roofline of Williams et al. 2009, per part): a fixed overhead, an overhead per request, the
matrix products (bound by arithmetic, or by reading the weights once), attention of the prompt tokens over what is
before them, and reading the KV of the requests that decode. Launching the kernels of a step with prompts may take
longer than all that.
"""

import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

from elmas.errors import UserError
from elmas.models.presets import find_preset, kv_bytes_per_token, n_parameters

HARDWARE_NAMES = ("h200", "h100", "cpu-2-cores")

_WEIGHT_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class ModelShape:
    """What of a model decides its speed.

    `layer_parameters` are multiplied with every token, `head_parameters` with those that are sampled from only.
    """

    name: str
    n_layers: int
    layer_parameters: int
    head_parameters: int
    weight_bytes: int
    attention_flops_per_pair: int
    """Floating point operations for one token to look at one token before it, over all layers."""
    kv_bytes_per_token: int


@dataclass(frozen=True)
class Hardware:
    """A machine. Rates are what was effective in measurements, not what data sheets say; see the data's provenance."""

    name: str
    flops_per_s: float
    attention_flops_per_s: float
    memory_bytes_per_s: float
    step_s: float
    """Overhead of a step that does not overlap with computing."""
    prompt_step_s: float
    """What a step with prompts has beyond that."""
    layer_launch_s: float
    """What a layer takes at least in a step with prompts: launching its kernels one by one."""
    request_s: float
    """Overhead of a step for each request in it: sampling, detokenizing, streaming."""
    frontend_s: float
    """What the server's front end does for a request before the engine sees it."""
    load_bytes_per_s: float
    """Host memory to device."""
    store_bytes_per_s: float
    """Device to host memory."""
    disk_read_bytes_per_s: float
    disk_write_bytes_per_s: float
    disk_latency_s: float


@dataclass(frozen=True)
class StepCost:
    """The time of a step, in coefficients for one machine and model."""

    step_s: float
    prompt_step_s: float
    launch_s: float
    request_s: float
    token_s: float
    sample_s: float
    weights_s: float
    attention_s: float
    kv_s: float

    def seconds(self, n_prompt: int, pairs: float, n_sampled: int, n_decoding: int, kv_tokens: int) -> float:
        """Return the time of a step.

        It computes `n_prompt` tokens of prompts, which look at `pairs` tokens before them in all, and one token for
        each of `n_decoding` requests, which have `kv_tokens` tokens before them in all. `n_sampled` requests, decoding
        ones among them, get a token.
        """
        products_s = (n_prompt + n_decoding) * self.token_s + n_sampled * self.sample_s
        computing_s = max(products_s, self.weights_s) + pairs * self.attention_s + kv_tokens * self.kv_s
        if n_prompt:
            computing_s = max(computing_s + self.prompt_step_s, self.launch_s)
        return self.step_s + n_sampled * self.request_s + computing_s


def model_shape(name: str) -> ModelShape:
    """Return the shape of a preset of `elmas model`; raises UserError for an unknown name."""
    preset = find_preset(name)
    embedding = preset.vocab_size * preset.hidden_size
    layers = n_parameters(preset) - embedding * (1 if preset.tied_embeddings else 2)
    return ModelShape(
        name=preset.name,
        n_layers=preset.n_layers,
        layer_parameters=layers,
        head_parameters=embedding,
        weight_bytes=(layers + embedding) * _WEIGHT_BYTES[preset.dtype],
        attention_flops_per_pair=4 * preset.n_layers * preset.n_heads * preset.head_dim,
        kv_bytes_per_token=kv_bytes_per_token(preset),
    )


def hardware(name: str) -> Hardware:
    """Return the machine with this name from the data; raises UserError for an unknown name."""
    return Hardware(name=name, **hardware_data(name)["hardware"])


def hardware_data(name: str) -> dict[str, Any]:
    """Return the whole data file of a machine: `hardware`, `provenance`, and the rows it was fitted to, if any."""
    if name not in HARDWARE_NAMES:
        raise UserError(f"unknown hardware {name!r}: choose one of {', '.join(HARDWARE_NAMES)}")
    text = resources.files("elmas.sim").joinpath("data", f"{name}.json").read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    return data


def step_cost(machine: Hardware, shape: ModelShape) -> StepCost:
    """Return the coefficients of a step for this machine and model."""
    return StepCost(
        step_s=machine.step_s,
        prompt_step_s=machine.prompt_step_s,
        launch_s=shape.n_layers * machine.layer_launch_s,
        request_s=machine.request_s,
        token_s=2 * shape.layer_parameters / machine.flops_per_s,
        sample_s=2 * shape.head_parameters / machine.flops_per_s,
        weights_s=shape.weight_bytes / machine.memory_bytes_per_s,
        attention_s=shape.attention_flops_per_pair / machine.attention_flops_per_s,
        kv_s=shape.kv_bytes_per_token / machine.memory_bytes_per_s,
    )
