"""How many blocks of memory Python holds, to see whether what repeats leaves something behind."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable


def growth_of(work: Callable[[int], None], *, num_first: int, num_more: int) -> float:
    """Blocks that stay for each call of `work(number)`, after the first ones.

    What the interpreter remembers of attribute names is left out: it is bounded, and fills slowly.
    """
    for number in range(num_first):
        work(number)
    before = _num_blocks()
    for number in range(num_first, num_first + num_more):
        work(number)
    return (_num_blocks() - before) / num_more


def _num_blocks() -> int:
    gc.collect()
    sys._clear_type_cache()
    return sys.getallocatedblocks()
