"""States in host memory: found by their ids, dropped by their age, and never over the bound."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.simulation import prompt_of
from tgi_llamacpp.engine.host_buffers import HostBuffers
from tgi_llamacpp.engine.host_cache import HostCache, HostState
from tgi_llamacpp.engine.runner import Int32s

PAGE = 4096
ROOM_OF_ONE = 12_000  # a page, and what keeps it in order


def put(
    cache: HostCache,
    ids: Int32s,
    scope: int = 0,
    num_bytes: int = 100,
    num_prompt: int = 1 << 31,
) -> bool:
    buffer = cache.make_room(num_bytes, len(ids))
    if buffer is not None:
        cache.add(scope, ids, buffer, num_prompt)
    cache.check_integrity()
    return buffer is not None


def num_found(cache: HostCache, ids: Int32s, scope: int = 0) -> int:
    found = cache.find(scope, ids)
    return 0 if found is None else found[1]


def test_the_longest_beginning_is_found() -> None:
    cache = HostCache(1 << 20, 4, can_cut=True)
    ids = prompt_of(0, 40)
    put(cache, np.concatenate([ids[:20], prompt_of(1, 10)]))
    put(cache, np.concatenate([ids[:30], prompt_of(2, 10)]))
    assert num_found(cache, ids) == 30
    assert num_found(cache, ids[:25]) == 25
    assert num_found(cache, ids[:3]) == 0
    assert num_found(cache, ids, scope=1) == 0


def test_what_cannot_be_cut_is_found_by_those_who_have_all_of_it() -> None:
    cache = HostCache(1 << 20, 4, can_cut=False)
    ids = prompt_of(0, 40)
    put(cache, ids[:20])
    put(cache, ids[:30])
    assert num_found(cache, ids) == 30
    assert num_found(cache, ids[:29]) == 20
    assert num_found(cache, ids[:19]) == 0


def test_of_equals_the_smallest_is_found() -> None:
    cache = HostCache(1 << 20, 4, can_cut=True)
    ids = prompt_of(0, 20)
    for num_own in (30, 5, 12):
        put(cache, np.concatenate([ids, prompt_of(num_own, num_own)]))
    found = cache.find(0, ids)
    assert found is not None
    assert found[0].num_tokens == 25


def test_a_longer_state_takes_the_place_of_its_beginning() -> None:
    cache = HostCache(1 << 20, 4, can_cut=True)
    ids = prompt_of(0, 40)
    put(cache, ids[:20])
    put(cache, ids)
    assert len(cache) == 1
    assert cache.covers(0, ids[:20])
    assert not cache.covers(0, np.concatenate([ids, ids]))


def test_the_least_recently_used_goes_first() -> None:
    cache = HostCache(3 * ROOM_OF_ONE, 4, can_cut=True)
    for seed in (1, 2):
        assert put(cache, prompt_of(seed, 20))
    assert cache.covers(0, prompt_of(1, 20))  # a use
    while cache.num_evictions == 0:
        assert put(cache, prompt_of(10 + len(cache), 20))
    assert num_found(cache, prompt_of(1, 20)) == 20
    assert num_found(cache, prompt_of(2, 20)) == 0


def test_a_pinned_state_stays() -> None:
    cache = HostCache(ROOM_OF_ONE, 4, can_cut=True)
    assert put(cache, prompt_of(1, 20))
    found = cache.find(0, prompt_of(1, 20))
    assert found is not None
    assert cache.make_room(100, 20, pinned=found[0]) is None
    assert num_found(cache, prompt_of(1, 20)) == 20
    assert cache.make_room(100, 20) is not None
    assert len(cache) == 0


def found_in(cache: HostCache, ids: Int32s) -> HostState:
    found = cache.find(0, ids)
    assert found is not None
    return found[0]


class Slots:
    """Those that have cells of these seeds' prompts, as far as anybody asks."""

    def __init__(self, *seeds: int) -> None:
        self.seeds = list(seeds)
        self.num_asked_tokens: list[int] = []

    def __call__(self, scope: int, ids: Int32s) -> bool:
        self.num_asked_tokens.append(len(ids))
        return any(np.array_equal(prompt_of(seed, 20)[: len(ids)], ids) for seed in self.seeds)


def lend(cache: HostCache, *seeds: int, num_tokens: int = 20) -> list[HostState]:
    states = [found_in(cache, prompt_of(seed, 20)) for seed in seeds]
    for state in states:
        cache.lend(state, num_tokens)
    return states


def test_what_is_lent_goes_first() -> None:
    buffers = HostBuffers(PAGE, 20 * PAGE)
    cache = HostCache(4 * ROOM_OF_ONE, 4, can_cut=True, buffers=buffers, is_resident=Slots(2))
    while cache.ready_one():  # so nobody takes the pages of what is lent
        pass
    for seed in (1, 2):
        assert put(cache, prompt_of(seed, 20))
    lend(cache, 2)
    while cache.num_evictions == 0:
        assert put(cache, prompt_of(10 + len(cache), 20))
    assert num_found(cache, prompt_of(1, 20)) == 20
    assert num_found(cache, prompt_of(2, 20)) == 0


def test_the_pages_of_what_is_lent_serve_where_none_are_spare() -> None:
    cache = HostCache(1 << 20, 4, can_cut=True, is_resident=Slots(2, 3))
    for seed in (1, 2, 3):
        assert not cache.has_ready(100, 20)
        assert put(cache, prompt_of(seed, 20))
    lent = lend(cache, 1, 2, 3)
    assert not cache.has_ready(100 * PAGE, 20)  # most of which would be new
    assert cache.has_ready(100, 20, pinned=lent[1])
    num_bytes = cache.num_bytes
    assert cache.make_room(100, 20, pinned=lent[1]) is lent[2].buffer
    assert not cache.has_ready(100, 20, pinned=lent[1])
    assert cache.num_bytes < num_bytes
    assert cache.num_evictions == 0
    assert [num_found(cache, prompt_of(seed, 20)) for seed in (1, 2, 3)] == [20, 20, 0]


def test_what_slots_have_lost_since_is_lent_no_more() -> None:
    slots = Slots(1, 2)
    cache = HostCache(1 << 20, 4, can_cut=True, is_resident=slots)
    for seed in (1, 2):
        assert put(cache, prompt_of(seed, 20))
    lend(cache, 1, 2, num_tokens=19)
    slots.seeds.remove(1)
    assert cache.has_ready(100, 20)
    assert slots.num_asked_tokens == [19, 19]
    slots.seeds.append(1)
    assert cache.make_room(100, 20) is not None
    assert [num_found(cache, prompt_of(seed, 20)) for seed in (1, 2)] == [20, 0]


def test_only_an_answer_is_given_up_for_who_has_the_prompt() -> None:
    cache = HostCache(1 << 20, 4, can_cut=True, is_resident=Slots(1))
    assert put(cache, prompt_of(1, 20), num_prompt=12)
    for num_tokens, is_lent in ((10, False), (11, True), (20, True)):
        lend(cache, 1, num_tokens=num_tokens)
        assert cache.has_ready(100, 20) == is_lent


def test_what_serves_only_whole_is_not_lent() -> None:
    cache = HostCache(1 << 20, 4, can_cut=False, is_resident=Slots(1))
    assert put(cache, prompt_of(1, 20))
    lend(cache, 1)
    assert not cache.has_ready(100, 20)


def test_ready_buffers_are_counted_and_give_way_to_states() -> None:
    cache = HostCache(10 * ROOM_OF_ONE, 4, can_cut=True, buffers=HostBuffers(PAGE, 20 * PAGE))
    while cache.ready_one():
        cache.check_integrity()
    assert cache.num_bytes == 20 * PAGE
    num_states = 0
    while cache.num_evictions == 0:
        num_states += 1
        assert put(cache, prompt_of(num_states, 20))
    assert num_states > 10


def test_what_is_over_the_bound_alone_evicts_nobody() -> None:
    cache = HostCache(ROOM_OF_ONE, 4, can_cut=True)
    assert put(cache, prompt_of(1, 20))
    assert not put(cache, prompt_of(2, 20), num_bytes=PAGE + 5000)
    assert not put(cache, prompt_of(3, 4000))
    assert len(cache) == 1


@pytest.mark.parametrize("num_shared", [0, 100])
def test_what_is_counted_is_no_less_than_what_python_takes(num_shared: int) -> None:
    shared = prompt_of(0, num_shared)
    own = [np.concatenate([shared, prompt_of(n, 30 + n % 7)]) for n in range(300)]
    gc.collect()
    tracemalloc.start()
    cache = HostCache(1 << 30, 4, can_cut=True)
    for n, ids in enumerate(own):
        put_unchecked(cache, n % 3, ids)
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    num_buffer_bytes = PAGE * len(cache)  # which tracemalloc does not see
    assert taken <= cache.num_bytes - num_buffer_bytes <= 10 * taken


def put_unchecked(cache: HostCache, scope: int, ids: Int32s) -> None:
    buffer = cache.make_room(64, len(ids))
    assert buffer is not None
    cache.add(scope, ids, buffer, len(ids))


@dataclass(frozen=True)
class Save:
    scope: int
    ids: tuple[int, ...]
    num_bytes: int
    is_lent: bool  # what is found of it


SAVES = st.lists(
    st.builds(
        Save,
        scope=st.integers(0, 1),
        ids=st.lists(st.integers(0, 2), min_size=1, max_size=12).map(tuple),
        num_bytes=st.integers(1, 3 * PAGE),
        is_lent=st.booleans(),
    ),
    max_size=40,
)


@given(
    saves=SAVES,
    max_bytes=st.integers(0, 60_000),
    can_cut=st.booleans(),
    num_ready=st.integers(0, 3),
)
@settings(max_examples=200, deadline=None)
def test_whatever_is_saved_the_bound_holds_and_what_is_found_was_saved(
    saves: list[Save], max_bytes: int, can_cut: bool, num_ready: int
) -> None:
    buffers = HostBuffers(num_ready * PAGE, 30_000)
    cache = HostCache(
        max_bytes, 1, can_cut=can_cut, buffers=buffers, is_resident=lambda _, ids: len(ids) % 2 > 0
    )
    known: set[tuple[int, tuple[int, ...]]] = set()
    for save in saves:
        cache.ready_one()
        cache.check_integrity()
        ids = np.array(save.ids, np.int32)
        if not cache.covers(save.scope, ids) and put(cache, ids, save.scope, save.num_bytes):
            known.add((save.scope, save.ids))
        found = cache.find(save.scope, ids)
        if found is not None:
            state, num_tokens = found
            cells = tuple(cache.ids(state).tolist())
            assert (state.scope, cells) in known
            assert state.scope == save.scope
            assert cells[:num_tokens] == save.ids[:num_tokens]
            assert can_cut or num_tokens == state.num_tokens
            if save.is_lent:
                cache.lend(state, num_tokens)
    assert cache.num_bytes <= max_bytes
