"""All workloads by name, with their numbers. The first eight are the original suite's."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any, cast

from elmas.bench.rounds import RoundsWorkload
from elmas.bench.workloads.applications import (
    ApplicationWorkload,
    crosswords_application,
    gaia_application,
    guessing_game_application,
    mmlu_application,
    town_application,
)
from elmas.bench.workloads.conversations import MultiTurn
from elmas.bench.workloads.deep_research import DeepResearch
from elmas.bench.workloads.generative_agents import GenerativeAgents
from elmas.bench.workloads.guessing_game import GuessingGame
from elmas.bench.workloads.mmlu import SwarmMmlu
from elmas.bench.workloads.replay import Replay
from elmas.bench.workloads.sharegpt import ShareGpt
from elmas.bench.workloads.tool_agents import PauseClass, ToolAgents
from elmas.bench.workloads.workload import Datasets, Definition, Vocabulary, Workload
from elmas.errors import UserError
from elmas.sim.traces import DEFAULT_BLOCK_TOKENS

STANDARD = ("generative_agents", "guessing_game", "multiturn_long", "multiturn_short", "sharegpt")
"""The five that the original runs on all of its servers."""

MULTI_AGENT = ("gptswarm_mmlu", "guessing_game_e2e", "guessing_game_e2e_cot")
"""The three that it runs on four of them."""

_GENERATED_BLOCK_TOKENS = 64
"""Of the generated trace: agents with prompts of some thousand tokens."""


def _sharegpt(seed: int, datasets: Datasets, vocabulary: Vocabulary) -> Workload:
    return ShareGpt("sharegpt", 200, 4.0, seed, vocabulary, datasets.sharegpt)


def _sharegpt_bursts(seed: int, datasets: Datasets, vocabulary: Vocabulary) -> Workload:
    return ShareGpt("sharegpt_bursts", 200, 4.0, seed, vocabulary, datasets.sharegpt, burstiness=0.1)


def _generative_agents(seed: int, datasets: Datasets, vocabulary: Vocabulary) -> Workload:
    return GenerativeAgents("generative_agents", n_calls=200, n_people=4, seed=seed)


def _multiturn(
    name: str,
    n_conversations: int,
    answer_tokens: tuple[int, int],
    seed: int,
    datasets: Datasets,
    vocabulary: Vocabulary,
) -> Workload:
    return MultiTurn(name, n_conversations, 4, (256, 512), answer_tokens, seed, vocabulary)


def _guessing_game(
    name: str, n_participants: int, thinks_aloud: bool, seed: int, datasets: Datasets, vocabulary: Vocabulary
) -> Workload:
    answer_tokens = (180, 280) if thinks_aloud else (3, 6)
    return GuessingGame(name, n_participants, 5, answer_tokens, thinks_aloud, seed)


def _gptswarm_mmlu(seed: int, datasets: Datasets, vocabulary: Vocabulary) -> Workload:
    return SwarmMmlu("gptswarm_mmlu", 20, 400, 400, answer_tokens=2, seed=seed, dataset=datasets.mmlu)


def _tool_agents(seed: int, datasets: Datasets, vocabulary: Vocabulary) -> Workload:
    return ToolAgents(
        name="tool_agents",
        n_agents=64,
        n_kinds=4,
        agents_per_s=1.0,
        n_turns=(4, 10),
        tools_tokens=1536,
        task_tokens=(128, 512),
        observation_tokens=(64, 512),
        answer_tokens=(16, 64),
        pauses=(PauseClass(0.8, 0.1, 1.0), PauseClass(0.15, 1.0, 5.0), PauseClass(0.05, 5.0, 20.0)),
        seed=seed,
        vocabulary=vocabulary,
    )


def _deep_research(seed: int, datasets: Datasets, vocabulary: Vocabulary) -> Workload:
    return DeepResearch(
        name="deep_research",
        n_investigations=16,
        investigations_per_s=0.5,
        n_sub_agents=8,
        n_turns=3,
        system_tokens=256,
        document_tokens=4096,
        instruction_tokens=64,
        plan_tokens=128,
        notes_tokens=(48, 96),
        found_tokens=(128, 384),
        search_s=(0.2, 2.0),
        report_tokens=128,
        conclusion_tokens=256,
        seed=seed,
        vocabulary=vocabulary,
    )


def _replay(seed: int, datasets: Datasets, vocabulary: Vocabulary) -> Workload:
    return Replay(
        name="replay",
        n_requests_wanted=400,
        time_scale=1.0,
        block_tokens=_GENERATED_BLOCK_TOKENS if datasets.trace is None else DEFAULT_BLOCK_TOKENS,
        most_prompt_tokens=7168,
        most_answer_tokens=1024,
        seed=seed,
        vocabulary=vocabulary,
        trace=datasets.trace,
    )


def _rounds(shape: RoundsWorkload, seed: int, datasets: Datasets, vocabulary: Vocabulary) -> Workload:
    return replace(shape, seed=seed, first_token_id=vocabulary.first_token_id, last_token_id=vocabulary.last_token_id)


ROUNDS = (
    RoundsWorkload(
        "rounds_a", 160, 5, system_tokens=1024, persona_tokens=256, observation_tokens=256, answer_tokens=32
    ),
    RoundsWorkload(
        "rounds_b", 320, 5, system_tokens=1024, persona_tokens=256, observation_tokens=256, answer_tokens=32
    ),
    RoundsWorkload(
        "rounds_c", 96, 4, system_tokens=1024, persona_tokens=512, observation_tokens=1536, answer_tokens=32
    ),
    RoundsWorkload("small", 54, 5, system_tokens=512, persona_tokens=512, observation_tokens=64, answer_tokens=16),
    RoundsWorkload(
        "no_reuse", 54, 2, system_tokens=512, persona_tokens=512, observation_tokens=64, answer_tokens=16, reuse=False
    ),
)
"""Closed-loop rounds of many agents. In A the histories grow to 35 GB of Llama 3 8B's KV, in B to 70, in C to 85."""

Make = Callable[[int, Datasets, Vocabulary], Workload]
_MAKERS: dict[str, tuple[str, Make]] = {
    "sharegpt": ("200 questions of people at 4 per second (Poisson), nothing returns", _sharegpt),
    "generative_agents": ("200 short calls one after the other, five templates", _generative_agents),
    "multiturn_short": (
        "20 conversations of 4 turns at once, answers of 4 to 8 tokens",
        partial(_multiturn, "multiturn_short", 20, (4, 8)),
    ),
    "multiturn_long": (
        "10 conversations of 4 turns at once, answers of 64 to 128 tokens",
        partial(_multiturn, "multiturn_long", 10, (64, 128)),
    ),
    "guessing_game": (
        "20 participants, 5 rounds with a barrier, a guess and its parsing each",
        partial(_guessing_game, "guessing_game", 20, False),
    ),
    "gptswarm_mmlu": ("20 questions, each to 800 agents at once that have two prompts", _gptswarm_mmlu),
    "guessing_game_e2e": (
        "800 participants, 5 rounds, direct prompting",
        partial(_guessing_game, "guessing_game_e2e", 800, False),
    ),
    "guessing_game_e2e_cot": (
        "800 participants, 5 rounds, chain of thought",
        partial(_guessing_game, "guessing_game_e2e_cot", 800, True),
    ),
    "sharegpt_bursts": ("sharegpt, but the same number of questions comes in bursts", _sharegpt_bursts),
    "tool_agents": ("64 agents that pause for tools of random length, 4 to 10 turns", _tool_agents),
    "deep_research": ("16 investigations: plan, 8 sub-agents on a document of 4,096 tokens, synthesis", _deep_research),
    "replay": ("a trace in the Mooncake format at its own times", _replay),
    "rounds_a": ("160 agents, 5 rounds with a barrier, histories up to 2.4k tokens", partial(_rounds, ROUNDS[0])),
    "rounds_b": ("320 agents, 5 rounds with a barrier, histories up to 2.4k tokens", partial(_rounds, ROUNDS[1])),
    "rounds_c": ("96 agents, 4 rounds with a barrier, histories up to 7.8k tokens", partial(_rounds, ROUNDS[2])),
    "small": ("54 agents, 5 rounds with a barrier, for two cores", partial(_rounds, ROUNDS[3])),
    "no_reuse": ("54 agents, 2 rounds, no two prompts share a beginning", partial(_rounds, ROUNDS[4])),
    "app_guessing_game": (
        "the application: 20 participants, 5 rounds, answers by schema",
        lambda seed, datasets, vocabulary: guessing_game_application(seed, 20, 5),
    ),
    "app_mmlu": (
        "the application: 40 questions, 5 truthful and 2 adversarial agents",
        lambda seed, datasets, vocabulary: mmlu_application(seed, datasets.mmlu),
    ),
    "app_crosswords": (
        "the application: a tree of thoughts on crosswords, 10 boards each",
        lambda seed, datasets, vocabulary: crosswords_application(seed),
    ),
    "app_gaia": (
        "the application: agents that search, read, calculate and run Python",
        lambda seed, datasets, vocabulary: gaia_application(seed, datasets.gaia),
    ),
    "app_town": (
        "the application: five people in a town, 12 ticks",
        lambda seed, datasets, vocabulary: town_application(seed),
    ),
}

WORKLOADS = {name: Definition(name, summary, make) for name, (summary, make) in _MAKERS.items()}
"""By name, in the order in which they are listed."""


def workload(
    name: str, *, seed: int, datasets: Datasets | None = None, vocabulary: Vocabulary | None = None
) -> Workload:
    """Return the workload of a name at its full size; raises UserError that lists the names for an unknown one.

    Numbers of the workload may follow the name: "replay:time_scale=0.5:block_tokens=64".
    """
    base, *changes = name.split(":")
    definition = WORKLOADS.get(base)
    if definition is None:
        raise UserError(f"there is no workload {base!r}: choose from {', '.join(WORKLOADS)}")
    if seed < 0:
        raise UserError(f"the seed is {seed}: give 0 or more")
    found = definition.make(seed, datasets or Datasets(), vocabulary or Vocabulary())
    return _changed(found, name, changes) if changes else found


def _changed(found: Workload, name: str, changes: Sequence[str]) -> Workload:
    """Return the workload under a new name, with other numbers; an application's are those of its settings."""
    each = cast(Any, found)
    target = each.settings if isinstance(found, ApplicationWorkload) else each
    known = {
        field.name: type(value)
        for field in fields(target)
        if type(value := getattr(target, field.name)) in (int, float) and field.name != "seed"
    }
    values: dict[str, int | float] = {}
    for change in changes:
        key, _, text = change.partition("=")
        if key not in known:
            raise UserError(f"{key!r} in {name!r} is no number of this workload: choose from {', '.join(known)}")
        try:
            values[key] = known[key](text)
        except ValueError:
            kind = "whole number" if known[key] is int else "number"
            raise UserError(f"{key} is {text!r} in {name!r}: give a {kind}") from None
        if not 0 < values[key] < float("inf"):
            raise UserError(f"{key} is {text} in {name!r}: give more than 0")
    changed = replace(target, **values)
    renamed = replace(each, settings=changed) if target is not each else changed
    return cast(Workload, replace(renamed, name=name))


def scaled(workload: Workload, factor: float) -> Workload:
    """Return the workload at a scale, 1 as it is; raises UserError for a factor that is none."""
    if not 0 < factor < float("inf"):
        raise UserError(f"--scale is {factor}: give a factor above 0, 0.05 for two cores")
    return workload if factor == 1 else workload.scaled(factor)
