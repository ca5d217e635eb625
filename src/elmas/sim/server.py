"""One vLLM server in virtual time: its scheduler's steps over simulated requests.

Follows vLLM v1's `Scheduler.schedule` with chunked prefill and prefix caching: within a budget of tokens per step,
running requests come first, in the order in which they began, then waiting ones as long as all of their prompt fits the
device. Out of blocks, the last to begin is preempted. A request whose blocks are loaded from host memory waits for that
while others run. Steps in which nothing happens but decoding are taken together.
"""

import math
from dataclasses import dataclass, field
from typing import Protocol

from elmas.errors import UserError
from elmas.scheduling.gathering import Gathering
from elmas.sim.decoding import DecodingRequests
from elmas.sim.device import DeviceCache
from elmas.sim.frontend import FrontEnd
from elmas.sim.hardware import StepCost
from elmas.sim.records import Records
from elmas.sim.requests import Job, Live
from elmas.sim.tiers import TierPlan, Tiers
from elmas.sim.waiting import OrderPlan, WaitingRequests
from elmas.sim.work import WorkEstimates

_LEAST_CHUNK = 16
"""Requests that compute fewer tokens than this in a step do not count for the measured speed of prefill."""

_IDLE_PUMP_S = 0.005
"""How often an idle server looks whether something can be written to disk."""


class Source(Protocol):
    """Where requests come from."""

    def next_arrival_s(self) -> float:
        """Return when the next request arrives, as far as that is decided; infinite without one."""

    def take(self) -> Job:
        """Return the next request."""

    def ended(self, job: Job, now_s: float) -> None:
        """A request has got its last token: others may follow from that."""


@dataclass(frozen=True)
class ServerPlan:
    """Sizes of a server, in vLLM's terms; without `tiers` it has the device's cache only."""

    n_device_blocks: int
    block_tokens: int = 16
    block_bytes: int = 0
    max_batched_tokens: int = 8192
    max_running: int = 256
    max_waiting: int = 10_000
    """Requests that wait in the engine at most: later ones wait in front of it, as behind a limit of connections."""
    order: OrderPlan = field(default_factory=OrderPlan)
    tiers: TierPlan | None = None
    frontend_s: float = 0.0


class Server:
    """See the module; `run` plays the source to its end."""

    def __init__(self, plan: ServerPlan, cost: StepCost, source: Source) -> None:
        self.device = DeviceCache(plan.n_device_blocks)
        self.tiers = None
        if plan.tiers is not None:
            self.tiers = Tiers(plan.tiers, self.device, plan.block_tokens, plan.block_bytes)
        self.records = Records()
        self.now_s = 0.0
        self._plan = plan
        self._cost = cost
        self._source = source
        self._work = WorkEstimates(self.device, self.tiers, plan.block_tokens)
        self._waiting = WaitingRequests(plan.order, self._work.estimate)
        self._decoding = DecodingRequests(plan.block_tokens)
        self._running: dict[Live, None] = {}
        self._partial: Live | None = None
        """The request whose prompt is computed in part: always the last to have begun."""
        self._chunks: list[tuple[Live, int]] = []
        self._n_reserved = 0
        """Blocks that requests which are loading will need beyond those they have."""
        self._is_blocked = False
        """Nothing has changed since the next waiting request was found not to fit."""
        self._gathering = Gathering()
        self._held_until_s = 0.0
        """Until then, requests that are not on the device wait for the rest of a burst."""
        self._n_arrived = 0
        self._front_end = FrontEnd(plan.frontend_s)

    def run(self) -> Records:
        """Play the source until it has nothing more and all requests have ended; returns the records."""
        while True:
            self._take_in()
            self._schedule()
            if self._chunks or self._decoding:
                self._execute()
                continue
            next_s = self._next_event_s()
            if next_s == math.inf:
                break
            self.now_s = max(self.now_s, next_s)
        if self._waiting.n_ready or self._waiting.n_aside or self._running:
            raise RuntimeError("the simulation came to a halt with requests left: an error in the simulator")
        return self.records

    # What happens between steps

    def _take_in(self) -> None:
        """Take in arrivals and whatever has ended by now."""
        now_s, source, front_end = self.now_s, self._source, self._front_end
        while self._waiting.n_waiting < self._plan.max_waiting:
            arrival_s, visible_s = source.next_arrival_s(), front_end.next_s
            if arrival_s <= min(visible_s, now_s):
                front_end.arrive(source.take(), arrival_s)
            elif visible_s <= now_s:
                self._arrive(front_end.take(), visible_s)
            else:
                break
        tiers = self.tiers
        if tiers is None:
            return
        if tiers.next_load_s <= now_s:
            for request in tiers.take_loaded(now_s):
                self._register(request, request.n_computed)
                self._waiting.loaded(request)
            self._is_blocked = False
        if tiers.next_store_s <= now_s and tiers.take_stored(now_s):
            self._is_blocked = False
        if tiers.disk is not None:
            has_other_work = self._waiting.n_ready > 0 or len(self._running) >= self._plan.max_running
            tiers.before_step(has_other_work, now_s)
            if self._waiting.bring_back(tiers.take_waited()):
                self._is_blocked = False

    def _next_visible_s(self) -> float:
        """When the engine sees the next arrival at the earliest: the front end takes its time, and lets only so many
        in."""
        if self._waiting.n_waiting >= self._plan.max_waiting:
            return math.inf
        return min(self._front_end.next_s, self._source.next_arrival_s() + self._plan.frontend_s)

    def _arrive(self, job: Job, visible_s: float) -> None:
        n_most_blocks = self._n_blocks(job.n_prompt_tokens + job.n_answer_tokens)
        if n_most_blocks > self.device.n_blocks:
            raise UserError(
                f"a request of {job.n_prompt_tokens} + {job.n_answer_tokens} tokens needs {n_most_blocks} blocks, and "
                f"the device has {self.device.n_blocks} to use: raise --device-blocks"
            )
        if self.records.first_arrival_s is None:
            self.records.first_arrival_s = job.arrival_s
        request = Live(job, self._n_arrived, n_most_blocks)
        self._n_arrived += 1
        if self.tiers is not None and self._plan.order.window_size > 1:
            self._gathering.arrived(visible_s, self.now_s, self._is_idle(), self.tiers.n_only_on_device)
        if self.tiers is not None:
            self.tiers.add(request, self.now_s)
        is_aside = self.tiers is not None and self.tiers.is_waiting_for_disk(request)
        self._waiting.arrive(request, is_aside, self.now_s)
        if is_aside:
            self._place_reads(request)
        else:
            self._is_blocked = False

    def _place_reads(self, request: Live) -> None:
        """Read about in the order in which requests will run: by arrival, but those that need computing after their
        reads will be overtaken, by the bound at most."""
        assert self.tiers is not None
        cost = self._work.estimate(request).cost - self.tiers.n_tokens_coming(request)
        share = min(1.0, max(0.0, cost / request.n_tokens))
        self.tiers.prioritise_reads(request, request.number + share * self._plan.order.max_overtaken)

    def _next_event_s(self) -> float:
        """When something happens next in a server that computes nothing."""
        next_s, tiers = self._next_visible_s(), self.tiers
        if self._held_until_s > self.now_s:
            next_s = min(next_s, self._held_until_s)
        elif self._waiting.n_ready and not self._is_blocked:
            next_s = min(next_s, self.now_s + self._cost.step_s)
        if tiers is None:
            return next_s
        next_s = min(next_s, tiers.next_load_s, tiers.next_store_s)
        if tiers.disk is not None and (next_s < math.inf or self._waiting.n_aside):
            next_s = min(next_s, max(tiers.next_disk_s, self.now_s))
            if tiers.disk.tier.has_work(self.now_s) or self._waiting.n_aside:
                next_s = min(next_s, self.now_s + _IDLE_PUMP_S)
        return next_s

    # Scheduling

    def _schedule(self) -> None:
        """Decide what the next step computes, and give it its device blocks."""
        self._chunks.clear()
        has_preempted = self._extend_decoding() if self._decoding else False
        budget = self._plan.max_batched_tokens - len(self._decoding)
        if self._partial is not None and budget > 0:
            n = self._extend_partial(self._partial, budget)
            budget -= n
            has_preempted |= n == 0
        if not has_preempted and not self._is_blocked and budget > 0 and self._waiting.n_ready:
            self._work.forget_preempted()
            self._admit(budget)
            self._waiting.end_step()
        if self.tiers is not None:
            self.tiers.plan_step(self.now_s)

    def _extend_decoding(self) -> bool:
        """Give decoding requests the blocks that they need for the next step; returns whether any was preempted."""
        needed, device = self._decoding.need_block(), self.device
        if len(needed) <= device.n_free:
            if needed:
                for request, block in zip(needed, device.allocate(len(needed)).tolist(), strict=True):
                    request.device_blocks[request.n_device_blocks] = block
                    request.n_device_blocks += 1
            return False
        for request in needed:
            while request in self._decoding and device.n_free == 0:
                self._preempt(next(reversed(self._running)))
            if request in self._decoding:
                request.add_blocks(device.allocate(1))
        return True

    def _extend_partial(self, request: Live, budget: int) -> int:
        """Go on with the prompt that is computed in part; returns the tokens of it, 0 if it had to be preempted."""
        n = min(request.n_tokens - request.n_computed, budget)
        n_blocks = self._n_blocks(request.n_computed + n) - request.n_device_blocks
        if n_blocks > self.device.n_free:
            self._preempt(request)
            return 0
        self._add_chunk(request, n, n_blocks)
        return n

    def _admit(self, budget: int) -> None:
        """Let waiting requests begin, as far as budget and device blocks reach."""
        tiers, waiting, device = self.tiers, self._waiting, self.device
        block_tokens = self._plan.block_tokens
        while budget > 0:
            request = waiting.next(self.now_s)
            if request is None or self._is_held(request):
                return
            if len(self._running) >= self._plan.max_running:
                self._is_blocked = True
                return
            n_tokens, had = request.n_tokens, request.n_device_blocks
            n_hit, n_load, n_unused, n_computed = 0, 0, 0, request.n_computed
            if had == 0:
                n_usable = min((n_tokens - 1) // block_tokens, len(request.job.blocks))
                usable = request.job.blocks[:n_usable]
                n_hit = device.n_resident(usable)
                if tiers is not None and not tiers.takes_turn(request, self.now_s):
                    waiting.set_aside(request)
                    continue
                hits = device.find(usable[:n_hit])
                n_unused = device.n_unused(hits)
            # vLLM begins only what fits entirely, and loads only what leaves room for the prompts that are under way.
            n_all = self._n_blocks(n_tokens) - n_hit - had
            if n_all + n_unused > device.n_free:
                self._is_blocked = True
                return
            if had == 0:
                if tiers is not None:
                    n_load = tiers.offer(request, n_usable, n_hit, self.now_s)
                n_computed = (n_hit + n_load) * block_tokens
            n = 0 if n_load else min(n_tokens - n_computed, budget)
            n_new = n_load or self._n_blocks(n_computed + n) - n_hit - had
            if n_load and n_new + n_unused + self._n_reserved_in_all() > device.n_free:
                self._is_blocked = True
                return
            waiting.begin(request)
            self._work.has_begun(request)
            n_from_disk = 0
            if had == 0:
                device.touch(hits)
                request.add_blocks(hits)
                request.n_registered = n_hit
                request.n_computed = n_computed
                if n_load:
                    request.add_blocks(device.allocate(n_load))
                    self._n_reserved += n_all - n_load
                if tiers is not None:
                    n_from_disk = tiers.accept(request, n_load, self.now_s)
                self._count(request, n_hit, n_load, n_from_disk)
                if n_load:
                    continue
            else:
                self._n_reserved -= n_all
            self._running[request] = None
            self._add_chunk(request, n, n_new)
            budget -= n

    def _is_idle(self) -> bool:
        """Whether no request waits or runs."""
        waits = self._waiting.n_ready or self._waiting.n_aside or self._n_reserved
        return not (waits or self._running or (self.tiers is not None and self.tiers.is_loading))

    def _is_held(self, request: Live) -> bool:
        """Whether the request had better wait for the rest of a burst."""
        self._held_until_s = self._gathering.holds_until_s(self.now_s)
        return self._held_until_s > self.now_s and request.n_device_blocks == 0 and self._work.needs_room(request)

    def _n_reserved_in_all(self) -> int:
        """Blocks that prompts under way, loading or computed in part, will still need."""
        partial = self._partial
        if partial is None:
            return self._n_reserved
        return self._n_reserved + self._n_blocks(partial.n_tokens) - partial.n_device_blocks

    def _add_chunk(self, request: Live, n_tokens: int, n_blocks: int) -> None:
        """The next step computes so many tokens of a prompt, for which it gets so many blocks."""
        if n_blocks:
            request.add_blocks(self.device.allocate(n_blocks))
        n_computed = request.n_computed + n_tokens
        # Found from now on, as in vLLM: others may begin on blocks that this step computes.
        self._register(request, n_computed)
        self._partial = request if n_computed < request.n_tokens else None
        self._chunks.append((request, n_tokens))

    def _register(self, request: Live, n_tokens: int) -> None:
        """The request's complete blocks among its first `n_tokens` can be found on the device."""
        first, last = request.n_registered, min(n_tokens // self._plan.block_tokens, len(request.job.blocks))
        if last > first:
            self.device.register(request.job.blocks[first:last], request.device_blocks[first:last])
            request.n_registered = last

    def _preempt(self, request: Live) -> None:
        """Take all from a running request, the last to have begun; it will begin anew."""
        if request in self._decoding:
            self._decoding.remove(request)
        if self.tiers is not None:
            self.tiers.store_completed(request, request.n_computed)
        self._give_back(request)
        if request is self._partial:
            self._partial = None
        request.n_computed = request.n_considered = 0
        request.n_preemptions += 1
        self.records.counts.n_preemptions += 1
        self._waiting.preempted(request)

    def _give_back(self, request: Live) -> None:
        """The request runs no more, and what it has computed was considered for storing."""
        del self._running[request]
        self._register(request, request.n_computed)
        self.device.release(request.own_blocks)
        request.n_device_blocks = request.n_registered = 0
        self._is_blocked = False

    # Computing

    def _execute(self) -> None:
        """The step, or all steps until something else than decoding happens."""
        decoding, counts = self._decoding, self.records.counts
        n_decoding = len(decoding)
        n_steps = 1
        if self._chunks:
            n_prompt = pairs = n_long = long_pairs = 0
            n_sampled = n_decoding
            for request, n in self._chunks:
                chunk_pairs = n * request.n_computed + n * (n - 1) // 2
                n_prompt += n
                pairs += chunk_pairs
                n_sampled += request is not self._partial
                if n >= _LEAST_CHUNK:
                    n_long += n
                    long_pairs += chunk_pairs
            seconds = self._cost.seconds(n_prompt, pairs, n_sampled, n_decoding, decoding.kv_tokens)
            if self.tiers is not None:
                self.tiers.observe_step(n_long, long_pairs, seconds)
        else:
            first_s = self._cost.seconds(0, 0, n_decoding, n_decoding, decoding.kv_tokens)
            growth_s = n_decoding * self._cost.kv_s
            n_steps = self._n_steps_until(self._next_change_s() - self.now_s, first_s, growth_s)
            n_steps = decoding.reserve(min(n_steps, decoding.steps_to_end()), self.device)
            seconds = n_steps * first_s + growth_s * n_steps * (n_steps - 1) / 2
        self.now_s += seconds
        counts.n_steps += n_steps
        counts.busy_s += seconds
        decoding.advance(n_steps)
        for request, n in self._chunks:
            self._computed(request, n)
        for request in decoding.take_ended():
            self._end(request)

    def _next_change_s(self) -> float:
        """Until when steps that only decode may be taken together."""
        if self._waiting.n_ready and not self._is_blocked:
            return self.now_s
        next_s, tiers = self._next_visible_s(), self.tiers
        if tiers is None:
            return next_s
        next_s = min(next_s, tiers.next_load_s)
        if self._waiting.n_ready or tiers.has_uncovered:
            next_s = min(next_s, tiers.next_store_s)
        return min(next_s, tiers.next_disk_s)

    def _n_steps_until(self, wait_s: float, first_s: float, growth_s: float) -> int:
        """Return after how many steps, of which each takes `growth_s` longer than the one before, `wait_s` are over."""
        if wait_s <= first_s:
            return 1
        if wait_s == math.inf:
            return 1 << 30
        # growth / 2 * n**2 + (first - growth / 2) * n = wait
        half = growth_s / 2
        linear = first_s - half
        n = 2 * wait_s / (linear + math.sqrt(linear * linear + 4 * half * wait_s))
        return max(1, math.ceil(n))

    def _computed(self, request: Live, n_tokens: int) -> None:
        """The step has computed so many tokens of the request's prompt."""
        request.n_computed += n_tokens
        if self.tiers is not None:
            self.tiers.has_computed(request)
        if request is self._partial:
            return
        self._work.has_its_prompt(request)
        request.n_answered += 1
        if request.first_token_s < 0:
            request.first_token_s = self.now_s
        if request.n_answered >= request.job.n_answer_tokens:
            self._end(request)
        else:
            self._decoding.add(request)

    def _end(self, request: Live) -> None:
        job, records = request.job, self.records
        if self.tiers is not None:
            self.tiers.end(request, self.now_s)
        self._give_back(request)
        records.ttft_s.append(request.first_token_s - job.arrival_s)
        records.latency_s.append(self.now_s - job.arrival_s)
        records.last_end_s = self.now_s
        records.counts.n_requests += 1
        records.counts.n_prompt_tokens += job.n_prompt_tokens
        records.counts.n_answer_tokens += job.n_answer_tokens
        self._source.ended(job, self.now_s)

    # Accounting

    def _count(self, request: Live, n_hit: int, n_load: int, n_from_disk: int) -> None:
        """Count where the prompt's tokens came from, once per request."""
        counts, block_tokens = self.records.counts, self._plan.block_tokens
        if request.n_preemptions:
            counts.n_computed_again_tokens += request.n_tokens - request.n_computed
            return
        counts.n_device_tokens += n_hit * block_tokens
        counts.n_disk_tokens += n_from_disk * block_tokens
        counts.n_host_tokens += (n_load - n_from_disk) * block_tokens
        counts.n_computed_tokens += request.job.n_prompt_tokens - request.n_computed

    def _n_blocks(self, n_tokens: int) -> int:
        return -(-n_tokens // self._plan.block_tokens)
