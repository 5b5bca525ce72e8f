"""Where sequences sit, and what they find there: slots, parked cells and copies of prefixes.

Owns the slot table and the prefix cache, and calls the runner to open, copy, move and empty slots.
A finished sequence stays in its slot, parked, until the slot or its cells are needed; it is never a
reason to wait. Knows no queue and no budget; called by the scheduler.
"""

from __future__ import annotations

from tgi_llamacpp.engine.host_tier import HostTier
from tgi_llamacpp.engine.prefix_cache import Match, PrefixCache, Resident, ids_of
from tgi_llamacpp.engine.runner import Int32s, Runner
from tgi_llamacpp.engine.sequence import Sequence
from tgi_llamacpp.engine.slots import SlotTable
from tgi_llamacpp.engine.stats import Counters

# A copy of cells, or a move, copies a whole slot when KV is split. Measured on a CPU with a 135M
# model, it takes as long as to compute one token for each 300 cells of the slot.
CELLS_PER_TOKEN = 300
RELOCATION_FRACTION = 16  # of a slot: fewer parked cells are not moved


class Placement:
    """The slots of one runner and who is in them."""

    def __init__(
        self,
        runner: Runner,
        min_prefix_tokens: int | None,
        counters: Counters,
        host_tier: HostTier | None = None,
        eog_ids: frozenset[int] = frozenset(),
    ) -> None:
        """min_prefix_tokens: a shorter prefix is computed again; None is no prefix cache."""
        limits = runner.limits
        self.table = SlotTable(
            limits.num_slots,
            is_unified=limits.is_unified,
            can_trim=limits.can_trim,
            max_slot_tokens=limits.max_slot_tokens,
            max_pool_tokens=limits.max_pool_tokens,
        )
        self._runner = runner
        self._eog_ids = eog_ids
        self._counters = counters
        self._host_tier = host_tier
        self._cache = None
        if min_prefix_tokens is not None:
            self._cache = PrefixCache(min_prefix_tokens, can_trim=limits.can_trim)
        self._followers: dict[int, tuple[Sequence, Resident, int]] = {}  # by seq_id
        self._found: list[tuple[int, int]] = []

    @property
    def num_parked_tokens(self) -> int:
        return self._cache.num_parked_tokens if self._cache else 0

    def has_cells(self, scope: int, ids: Int32s) -> bool:
        """Whether a slot has computed all of these ids."""
        return self._cache is not None and self._cache.has_cells(scope, ids)

    def take_found(self) -> list[tuple[int, int]]:
        """(seq_id, tokens of its prompt that came from others' cells), since the last call."""
        found, self._found = self._found, []
        return found

    def place(self, sequence: Sequence) -> None:
        """Give a sequence a slot, and what others have computed of its ids.

        Raises RunnerError where the runner refuses the sequence, which is placed then.
        """
        match = self._find(sequence)
        if match.leader is None:
            slot = self._choose(match)
            num_taken = self._take(slot, match)
        else:  # it starts when there is more to copy
            slot = self._choose(Match())
            num_taken = self._take(slot, Match())
        self.table.place(sequence, slot)
        sequence.num_computed = num_taken
        if match.leader is None and not num_taken:
            match = self._fill(sequence, match)
        if self._cache:
            self._cache.enter(sequence)
            self._start(sequence, match)
        self._open(sequence)

    def reopen(self, sequence: Sequence) -> None:
        """The parameters of its next token are others than those of the last one."""
        assert sequence.slot is not None
        self._runner.park(sequence.slot)
        self._open(sequence)

    def _open(self, sequence: Sequence) -> None:
        assert sequence.slot is not None
        params = sequence.sampling(self._eog_ids)
        self._runner.open(sequence.slot, params, sequence.prompt_ids, sequence.output_ids())

    def release(self, sequence: Sequence, *, keep: bool) -> None:
        """Free a slot; where its cells may serve others they are kept."""
        slot = self.table.release(sequence)
        self._followers.pop(sequence.seq_id, None)
        parked = self._cache.leave(sequence, keep=keep) if self._cache else None
        sequence.num_computed = 0
        if parked is None:
            self._runner.drop(slot)
            return
        self._runner.park(slot)
        self.table.park(slot, parked.num_parked)
        assert self._cache is not None
        for other in self._cache.superseded(parked):
            self._discard(other)

    def arrange(self) -> None:
        """Before a step: serve followers, keep slots dense, and clear what is in the way."""
        if self._followers:
            self._serve_followers()
        if move := self.table.find_move():
            self._move(*move)
        for slot in self.table.obstacles(
            self._runner.limits.max_slot_tokens, can_trim=self._runner.limits.can_trim
        ):
            self._vacate(slot)

    def take_back(self, dummy_slots: list[int]) -> None:
        """After a step: dummy rows leave their slots as they were.

        In a pool a sliding window may have given cells of what is parked there to others: it goes.
        """
        for slot in dummy_slots:
            if not self._runner.trim(slot, self.table.num_parked(slot)):
                parked = self._cache.parked_in(slot) if self._cache else None
                assert parked is not None, f"a dummy row stays in slot {slot}"
                self._evict(parked)

    def evict(self, num_cells: int) -> bool:
        """Give up so many parked cells, least recently used first; False where there are none."""
        num_before = self.num_parked_tokens
        while self._cache and num_before - self.num_parked_tokens < num_cells:
            oldest = self._cache.oldest()
            if oldest is None:
                break
            self._evict(oldest)
        return self.num_parked_tokens < num_before

    def prepare_one(self) -> bool:
        """While there is no work: keep one parked sequence in host memory, or ready a buffer for
        one; False if nothing is left to do.

        It stays in its slot, and what needs the slot later finds it saved. Each is considered once.
        """
        if self._cache is None or self._host_tier is None:
            return False
        parked = self._cache.next_to_settle()
        if parked is None:
            return self._host_tier.ready_one()
        parked.is_settled = True
        self._save(parked, is_idle=True)
        return True

    # A newcomer

    def _find(self, sequence: Sequence) -> Match:
        if self._cache is None:
            return Match()
        if sequence.num_to_score:  # logits are in nobody's cells
            return Match(miss="scored")
        if not sequence.takes_prefix:
            return Match(miss="unwanted")
        match = self._cache.find(sequence)
        if self._host_tier is None:
            return match
        num_had = max(match.num_tokens, match.num_led)
        found = self._host_tier.find(sequence.scope, ids_of(sequence)[:-1], num_had)
        return match if found is None else Match(found[1], state=found[0])

    def _choose(self, match: Match) -> int:
        """A free slot that keeps the running ones dense: empty, or of the least recently used.

        Or the match's own, where that loses less than a copy costs; and rather than to evict
        another, where it loses no more than an answer that the newcomer does not go on with.
        """
        candidates = self.table.candidates()
        if self._cache is None or not self._cache.num_parked:
            return candidates[0]
        empty = next((slot for slot in candidates if not self.table.num_parked(slot)), None)
        for source in match.sources:
            if source.sequence is not None or source.slot not in candidates:
                continue
            is_repeated = source.num_prompt <= match.num_tokens + 1  # whose last is computed again
            num_lost = source.num_parked - match.num_tokens
            if num_lost <= self._copy_tokens() or (empty is None and is_repeated):
                return source.slot
        if empty is not None:
            return empty
        oldest = self._cache.oldest(candidates)
        assert oldest is not None
        return oldest.slot

    def _copy_tokens(self) -> int:
        """What a copy costs, in tokens that could be computed meanwhile."""
        limits = self._runner.limits
        return 0 if limits.is_unified else limits.max_slot_tokens // CELLS_PER_TOKEN

    def _take(self, slot: int, match: Match) -> int:
        """Empty a slot, but for what the newcomer can use of it: the cells that stay."""
        parked = self._cache.parked_in(slot) if self._cache else None
        if parked is None:
            return 0
        is_source = parked in match.sources
        if is_source:
            match.sources = [parked]
        if not (is_source and parked.num_parked <= 2 * match.num_tokens):  # more would be cut off
            # A slot that something moves out of cannot be loaded before the next step.
            if match.state is None and self._relocate(
                parked, pinned=match.sources[0] if match.sources else None
            ):
                return 0
            if not is_source:
                self._evict(parked)
                return 0
        self._save(parked, match.num_tokens)
        self._unpark(parked)
        if self._runner.trim(slot, match.num_tokens):
            return match.num_tokens
        self._runner.drop(slot)
        match.sources, match.miss = [], "partial"
        return 0

    def _fill(self, sequence: Sequence, match: Match) -> Match:
        """Fill the sequence's empty slot, from host memory or from a source; what was found."""
        if match.state is not None:
            assert self._host_tier is not None
            assert self._cache is not None
            assert sequence.slot is not None
            is_unified = self._runner.limits.is_unified
            make_room = self.evict if is_unified else _has_room_of_its_own
            if self._host_tier.load(sequence.slot, match.state, match.num_tokens, make_room):
                sequence.num_computed = match.num_tokens
                return match
            match = self._cache.find(sequence)
        if match.leader is None:
            self._copy(sequence, match)
        return match

    def _copy(self, sequence: Sequence, match: Match) -> None:
        """Fill the sequence's empty slot from a source; nothing where the memory cannot."""
        if not match.sources:
            return
        source, slot = match.sources[0], sequence.slot
        assert slot is not None
        if self._runner.copy(source.slot, slot, match.num_tokens):
            sequence.num_computed = match.num_tokens
            assert self._cache is not None
            self._cache.touch(source)
        else:
            match.miss = "partial"

    def _start(self, sequence: Sequence, match: Match) -> None:
        """Note that a sequence follows, or what it found."""
        if match.leader is not None:
            self._followers[sequence.seq_id] = (sequence, match.leader, match.num_led)
            self.table.follow(sequence, is_following=True)
            return
        self._counters.prefix.add(sequence.num_computed, match.miss)
        if sequence.num_computed and not sequence.num_preempted:
            num_cached = min(sequence.num_computed, len(sequence.prompt_ids))
            self._found.append((sequence.seq_id, num_cached))

    def _serve_followers(self) -> None:
        assert self._cache is not None
        for sequence, leader, num_led in list(self._followers.values()):
            if leader.sequence is not None and leader.num_cells < num_led:
                continue
            del self._followers[sequence.seq_id]
            self.table.follow(sequence, is_following=False)
            match = self._find(sequence)
            if match.leader is None:
                match = self._fill(sequence, match)
            self._start(sequence, match)

    # What is parked

    def _move(self, src: int, dst: int) -> None:
        if self.table.num_parked(dst):
            self._vacate(dst)
        sequence = self.table[src]
        assert sequence is not None
        self._runner.move(src, dst)
        self.table.move(src, dst)
        if self._cache:
            self._cache.move_running(sequence, dst)
        self._counters.num_moves += 1

    def _vacate(self, slot: int) -> None:
        parked = self._cache.parked_in(slot) if self._cache else None
        assert parked is not None
        if not self._relocate(parked):
            self._evict(parked)

    def _relocate(self, parked: Resident, pinned: Resident | None = None) -> bool:
        """Move parked cells to an empty slot, or one whose cells are older; False if none is."""
        assert self._cache is not None
        limits = self._runner.limits
        if limits.is_unified or parked.num_parked * RELOCATION_FRACTION < limits.max_slot_tokens:
            return False
        inside = set(self.table.candidates())
        slots = [slot for slot in self.table.outside() if slot not in inside]
        target = next((slot for slot in slots if not self.table.num_parked(slot)), None)
        if target is None:
            oldest = self._cache.oldest([*slots, parked.slot], pinned)
            if oldest is None or oldest is parked:
                return False  # it is the least recently used itself
            target = oldest.slot
            self._evict(oldest)
        self._runner.move(parked.slot, target)
        self.table.park(parked.slot, 0)
        self.table.park(target, parked.num_parked)
        self._cache.move_parked(parked, target)
        return True

    def _evict(self, parked: Resident) -> None:
        self._counters.prefix.num_evictions += 1
        self._save(parked)
        self._discard(parked)

    def _save(self, parked: Resident, num_kept: int = 0, *, is_idle: bool = False) -> None:
        """Keep parked cells in host memory, where nobody else has them; num_kept stay."""
        assert self._cache is not None
        if self._host_tier is None or self._cache.is_contained(parked):
            return
        if self._runner.num_cells(parked.slot) == parked.num_parked:  # and no dummy row more
            ids = self._cache.ids(parked)
            if is_idle:
                self._host_tier.save_ahead(parked.slot, parked.scope, ids, parked.num_prompt)
            else:
                self._host_tier.save(parked.slot, parked.scope, ids, parked.num_prompt, num_kept)

    def _discard(self, parked: Resident) -> None:
        self._unpark(parked)
        self._runner.drop(parked.slot)

    def _unpark(self, parked: Resident) -> None:
        assert self._cache is not None
        self._cache.unpark(parked)
        self.table.park(parked.slot, 0)

    def check_integrity(self, running: list[Sequence]) -> None:
        """Raises AssertionError where slots, residents and cells disagree: a bug of ours."""
        self.table.check_integrity(running)
        if self._cache:
            self._cache.check_integrity(running)
        if self._host_tier:
            self._host_tier.check_integrity()
        following = {one.seq_id for one in running if one.is_following and not one.is_aside}
        assert self._followers.keys() == following, "followers are off"
        for _, leader, num_led in self._followers.values():
            assert leader.sequence is None or leader.num_ids >= num_led, "nobody will get there"
        for slot in range(len(self.table)):
            sequence = self.table[slot]
            parked = self._cache.parked_in(slot) if self._cache else None
            assert self.table.num_parked(slot) == (parked.num_parked if parked else 0)
            expected = sequence.num_computed if sequence else self.table.num_parked(slot)
            assert self._runner.num_cells(slot) == expected, f"cells of slot {slot} are off"


def _has_room_of_its_own(num_cells: int) -> bool:
    """Nothing has to go for a slot of a split cache."""
    return False
