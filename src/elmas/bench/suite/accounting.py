"""What a run came to by the server's own counters, and whether the client's figures agree with them. Pure functions."""

from collections.abc import Mapping, Sequence

from elmas.agents.endpoint import RequestRecord
from elmas.bench.counters import PromptTokens, Served
from elmas.bench.suite.infinite import CachedRequest, infinite_hit_tokens
from elmas.bench.suite.trial import CounterCheck, TierBytes, TokenCounts
from elmas.bench.summary import Metrics

_TTFT_SHARE = 0.25
_TTFT_MARGIN_S = 0.25
"""How far the client's time to first token may be above the server's, per request: the way there and back, and the
queue in front of the server's HTTP loop, which the server does not see."""

_MOVES = {
    "device_to_host": "store_blocks",
    "host_to_device": "load_blocks",
    "host_to_disk": "disk_write_blocks",
    "disk_to_host": "disk_read_blocks",
}
"""Counters of elmas by direction, in blocks."""

_ERRORS = ("errors", "order_errors")
"""Counters of elmas that are 0 in a server that works."""


def token_counts(tokens: PromptTokens) -> TokenCounts:
    """Return the counters of a run as its result has them."""
    return TokenCounts(
        prompt=tokens.total,
        device=tokens.device,
        host=tokens.host,
        disk=tokens.disk,
        recomputed=tokens.computed,
        preemptions=tokens.preemptions,
    )


def tier_bytes(events: Mapping[str, float], offloaded: Mapping[str, int], block_bytes: int | None) -> TierBytes:
    """Return the bytes moved between tiers, from counters of elmas (`events`, in blocks) or of vLLM (`offloaded`).

    `block_bytes` is the size of a block; None: not known, so that blocks say nothing. Servers without tiers have no
    counters: nothing moved.
    """
    if offloaded:
        return TierBytes(**{name: offloaded.get(name, 0) for name in _MOVES})
    if block_bytes is None:
        return TierBytes()
    return TierBytes(**{name: int(events.get(counter, 0)) * block_bytes for name, counter in _MOVES.items()})


def check_counters(metrics: Metrics, served: Served, most_lag_s: float) -> list[CounterCheck]:
    """Return the client's figures beside the server's, for a run in which every request was answered.

    `most_lag_s` is how late the client itself was at worst: its times may be longer by as much.
    """
    n = metrics.n_requests
    ttft_s = metrics.ttft.mean_s * metrics.ttft.n if metrics.ttft is not None else 0.0
    allowed_s = served.ttft_sum_s * (1 + _TTFT_SHARE) + n * (_TTFT_MARGIN_S + most_lag_s)
    return [
        CounterCheck("requests", n, served.n_requests, n == served.n_requests),
        CounterCheck(
            "prompt tokens", metrics.prompt_tokens, served.prompt_tokens, metrics.prompt_tokens == served.prompt_tokens
        ),
        CounterCheck(
            "output tokens", metrics.output_tokens, served.output_tokens, metrics.output_tokens == served.output_tokens
        ),
        # The client measures from before the request was sent, so it can only be later than the server.
        CounterCheck(
            "sum of TTFT, s", ttft_s, served.ttft_sum_s, served.ttft_sum_s <= ttft_s + n * 0.001 and ttft_s <= allowed_s
        ),
    ]


def infinite_tokens(records: Sequence[RequestRecord], block_size: int) -> int | None:
    """Return the prompt tokens that a cache without limits would have served; None where prompts are not known.

    The prompts are those the server saw, after its chat template and tokenizer.
    """
    complete = [record for record in records if record.error is None]
    if not complete or any(record.prompt_token_ids is None for record in complete):
        return None
    requests = (
        CachedRequest(record.submitted_s, record.ended_s, record.prompt_token_ids or (), record.token_ids or ())
        for record in complete
    )
    return infinite_hit_tokens(requests, block_size)


def find_violations(
    records: Sequence[RequestRecord],
    checks: Sequence[CounterCheck],
    tokens: TokenCounts | None,
    infinite: int | None,
    block_size: int | None,
    since_start: Mapping[str, float],
) -> list[str]:
    """Return what makes a trial worthless, in words; empty for a sound one.

    `infinite` is what a cache without limits would have served (`infinite_tokens`). More than that, by more than one
    block per request, can only come from caches that were not empty. `since_start` are elmas' counters since the server
    started: after an internal error, whenever it was, something else is measured than what the server's name says.
    """
    found = []
    n_errors = sum(since_start.get(name, 0) for name in _ERRORS)
    if n_errors:
        found.append(f"the server counted {n_errors:.0f} internal errors, after which the cache or the order is off")
    failed = [record.error for record in records if record.error is not None]
    if failed:
        found.append(f"{len(failed)} of {len(records)} requests failed, the first with: {failed[0]}")
    found.extend(
        f"the client counted {check.name} {check.client:,.6g}, the server {check.server:,.6g}"
        for check in checks
        if not check.agrees
    )
    if tokens is not None and infinite is not None and block_size is not None and not failed:
        reused = tokens.prompt - tokens.recomputed
        if reused > infinite + block_size * len(records):
            found.append(
                f"{reused} prompt tokens were reused, and a cache without limits would have served {infinite}: "
                "the caches were not empty"
            )
    return found
