"""The prefix cache's tier in host memory: what leaves a slot is saved, what comes back is loaded.

Decides whether a save or a load is worth its time and has it beside running streams, by what
earlier ones took, and counts. Knows no slot table and no queue; called by placement.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tgi_llamacpp.engine.cost_model import CostModel
from tgi_llamacpp.engine.host_buffers import HostBuffers
from tgi_llamacpp.engine.host_cache import HostCache, HostState
from tgi_llamacpp.engine.runner import Int32s, Runner, RunnerLimits
from tgi_llamacpp.messages import HostStats

_GUESSED_S_PER_BYTE = 1e-9
_MEMORY = 0.8  # of what transfers took: one counts half after three more of its size
_OPTIMISM = 0.99  # a transfer that is not tried gets cheaper in belief, until it is tried again
_PRIOR_BYTES = 4096
# Of the bound, what states saved ahead may take together; the rest is for those without a slot.
AHEAD_SHARE = 0.5
# Of a turn's time for transfers, what saves may have: they are for later, a load is for now.
SAVE_SHARE = 0.5
# Of buffers that are ready before there is a state: each has room for so many tokens, together they
# hold what the slots can, up to these bytes, which a slow virtual machine backs in half a second.
READY_TOKENS = 512
MAX_READY_BYTES = 256 << 20


def ready_buffers(limits: RunnerLimits, max_bytes: int) -> HostBuffers:
    """For states of this runner, in a host cache of max_bytes."""
    num_tokens = min(READY_TOKENS, limits.max_slot_tokens)
    num_bytes = limits.cache_bytes * num_tokens // max(limits.max_pool_tokens, 1)
    max_ready_bytes = min(limits.cache_bytes, max_bytes // 2, MAX_READY_BYTES)
    return HostBuffers(num_bytes, max_ready_bytes)


class TransferCost:
    """Seconds of a byte, in one direction."""

    def __init__(self) -> None:
        self._num_bytes = float(_PRIOR_BYTES)
        self._taken_s = _PRIOR_BYTES * _GUESSED_S_PER_BYTE

    def predict_s(self, num_bytes: int) -> float:
        return num_bytes * self._taken_s / self._num_bytes

    def learn(self, num_bytes: int, taken_s: float) -> None:
        """Take in what a transfer took."""
        self._num_bytes = _MEMORY * self._num_bytes + num_bytes
        self._taken_s = _MEMORY * self._taken_s + taken_s

    def doubt(self) -> None:
        """Take in that a transfer was not tried."""
        self._taken_s *= _OPTIMISM


@dataclass(slots=True)
class TransferCounters:
    """Of one direction, since the start."""

    num_done: int = 0
    num_skipped: dict[str, int] = field(default_factory=dict)  # by reason (TRANSFER_SKIPS)
    num_bytes: int = 0
    taken_s: float = 0.0

    def skip(self, reason: str) -> None:
        self.num_skipped[reason] = self.num_skipped.get(reason, 0) + 1


class _Direction:
    """Saves, or loads: counted together, with a cost of those to new pages besides."""

    def __init__(self) -> None:
        self.counters = TransferCounters()
        self._costs = {is_new: TransferCost() for is_new in (False, True)}

    def predict_s(self, num_bytes: int, *, is_new: bool = False) -> float:
        return self._costs[is_new].predict_s(num_bytes)

    def skip(self, reason: str, *, is_new: bool = False) -> None:
        self.counters.skip(reason)
        self._costs[is_new].doubt()

    def add(self, num_bytes: int, taken_s: float, *, is_new: bool = False) -> None:
        self.counters.num_done += 1
        self.counters.num_bytes += num_bytes
        self.counters.taken_s += taken_s
        self._costs[is_new].learn(num_bytes, taken_s)


@dataclass(frozen=True, slots=True)
class _Save:
    """One that may be done: of a slot with the cells of these ids."""

    slot: int
    scope: int
    ids: Int32s
    num_prompt: int  # of the ids
    num_bytes: int
    is_new: bool  # most of its buffer's pages
    predicted_s: float


class HostTier:
    """One host cache, and the runner whose slots it saves and fills.

    spare_s: the seconds that this turn has for all transfers together, beside running streams.
    """

    def __init__(
        self,
        runner: Runner,
        cache: HostCache,
        costs: CostModel,
        spare_s: Callable[[], float],
        now_s: Callable[[], float],
        max_ahead_s: float = 0.0,  # that a save ahead may take; 0: as long as it likes
    ) -> None:
        self._max_ahead_s = max_ahead_s
        self._runner = runner
        self._cache = cache
        self._costs = costs
        self._spare_s = spare_s
        self._now_s = now_s
        self._saves, self._loads = _Direction(), _Direction()
        self._pinned: HostState | None = None  # between find and load
        self._spent_s = 0.0
        self._num_hits = self._num_cached_tokens = self._num_idle_saves = 0

    def take_spent_s(self) -> float:
        """What transfers took since the last call, to be charged to the step that they delayed."""
        spent_s, self._spent_s = self._spent_s, 0.0
        return spent_s

    def ready_one(self) -> bool:
        """Make one buffer ready for a later save; False where there are enough of them."""
        return self._cache.ready_one()

    def save(self, slot: int, scope: int, ids: Int32s, num_prompt: int, num_kept: int = 0) -> None:
        """Keep what a slot holds, which are the cells of these ids, if that is worth it now.

        The first num_prompt of them are a prompt. The first num_kept stay in the slot, so that only
        the others are about to be lost.
        """
        if not self._is_lacking(scope, ids, num_kept):
            return
        save = self._propose(slot, scope, ids, num_prompt)
        if reason := self._why_not(save, num_kept):
            self._saves.skip(reason, is_new=save.is_new)
            return
        started_s = self._now_s()
        self._do(save)
        self._spent_s += self._now_s() - started_s

    def save_ahead(self, slot: int, scope: int, ids: Int32s, num_prompt: int) -> None:
        """The same while nobody waits, so that nobody waits for it later; the cells stay.

        A state that takes longer than the latency target would be in a newcomer's way, and one of
        more than its share of the bound in that of others: they are left until they have to go.
        """
        if not self._is_lacking(scope, ids):
            return
        save = self._propose(slot, scope, ids, num_prompt)
        is_short = not 0 < self._max_ahead_s < save.predicted_s
        all_bytes = save.num_bytes * self._runner.limits.num_slots
        is_small = all_bytes <= AHEAD_SHARE * self._cache.max_bytes
        if is_short and is_small and not self._why_not(save):
            self._num_idle_saves += self._do(save)

    def _is_lacking(self, scope: int, ids: Int32s, num_kept: int = 0) -> bool:
        """Whether the cache has no state of these ids, and would keep one."""
        is_long = len(ids) - num_kept >= self._cache.min_tokens
        return is_long and not self._cache.covers(scope, ids)

    def _propose(self, slot: int, scope: int, ids: Int32s, num_prompt: int) -> _Save:
        num_bytes = self._runner.state_bytes(slot)
        is_new = not self._cache.has_ready(num_bytes, len(ids), self._pinned)
        predicted_s = self._saves.predict_s(num_bytes, is_new=is_new)
        return _Save(slot, scope, ids, num_prompt, num_bytes, is_new, predicted_s)

    def _do(self, save: _Save) -> bool:
        """False where there is no room."""
        started_s = self._now_s()
        buffer = self._cache.make_room(save.num_bytes, len(save.ids), self._pinned)
        if buffer is None:
            self._saves.skip("large", is_new=save.is_new)
            return False
        self._runner.save(save.slot, buffer)
        self._cache.add(save.scope, save.ids, buffer, save.num_prompt)
        self._saves.add(save.num_bytes, self._now_s() - started_s, is_new=save.is_new)
        return True

    def _why_not(self, save: _Save, num_kept: int = 0) -> str:
        if not save.num_bytes:
            return "refused"
        both_s = save.predicted_s + self._loads.predict_s(save.num_bytes)
        if both_s > self._costs.prompt_s([(num_kept, len(save.ids) - num_kept)]):
            return "dear"
        return "" if self._has_time(save.predicted_s, SAVE_SHARE) else "late"

    def find(self, scope: int, ids: Int32s, num_had: int) -> tuple[HostState, int] | None:
        """A state for who begins with these ids, and how many it has; pinned until it is loaded.

        None where that is no more than num_had of them, or not to be had in less time than they.
        """
        found = self._cache.find(scope, ids)
        if found is None or found[1] <= num_had:
            return None
        state, num_tokens = found
        load_s = self._loads.predict_s(len(state.buffer))
        # The rest is computed in any case, so that one token more hardly costs a pass of its own.
        whole_s = self._costs.prompt_s([(num_had, len(ids) - num_had)])
        if load_s > whole_s - self._costs.prompt_s([(num_tokens, len(ids) - num_tokens)]):
            self._loads.skip("dear")
            return None
        if not self._has_time(load_s):
            self._loads.skip("late")
            return None
        self._pinned = state
        return found

    def load(
        self, slot: int, state: HostState, num_tokens: int, make_room: Callable[[int], bool]
    ) -> bool:
        """Fill an empty slot with the first num_tokens cells of a state; False where it cannot.

        make_room gives up so many parked cells where there may be too few, and says if it did.
        """
        is_done = self._load(slot, state)
        if not is_done and make_room(state.num_tokens):
            is_done = self._load(slot, state)
        self._pinned = None
        if not is_done:
            self._loads.skip("refused")
            return False
        self._cache.touch(state)
        if not self._runner.trim(slot, num_tokens):
            self._runner.drop(slot)
            return False
        self._cache.lend(state, num_tokens)
        self._num_hits += 1
        self._num_cached_tokens += num_tokens
        return True

    def _load(self, slot: int, state: HostState) -> bool:
        started_s = self._now_s()
        is_done = self._runner.load(slot, state.buffer, state.num_tokens)
        taken_s = self._now_s() - started_s
        self._spent_s += taken_s
        if is_done:
            self._loads.add(len(state.buffer), taken_s)
        return is_done

    def _has_time(self, transfer_s: float, share: float = 1.0) -> bool:
        return self._spent_s + transfer_s <= share * self._spare_s()

    def stats(self) -> HostStats:
        """As the router gets it."""
        saves, loads = self._saves.counters, self._loads.counters
        return HostStats(
            max_bytes=self._cache.max_bytes,
            num_bytes=self._cache.num_bytes,
            num_states=len(self._cache),
            num_evictions=self._cache.num_evictions,
            num_hits=self._num_hits,
            num_cached_tokens=self._num_cached_tokens,
            num_saves=saves.num_done,
            num_loads=loads.num_done,
            num_save_skips=dict(saves.num_skipped),
            num_load_skips=dict(loads.num_skipped),
            num_saved_bytes=saves.num_bytes,
            num_loaded_bytes=loads.num_bytes,
            save_s=saves.taken_s,
            load_s=loads.taken_s,
            num_idle_saves=self._num_idle_saves,
        )

    def check_integrity(self) -> None:
        """Raises AssertionError where the books disagree: a bug of ours."""
        assert self._pinned is None, "a state stays pinned"
        self._cache.check_integrity()
