"""Whatever engines die of and when: every token of everyone once, and only the guilty end badly."""

from __future__ import annotations

import asyncio
import itertools
from array import array
from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from tgi_llamacpp.errors import GenerationError, TgiError
from tgi_llamacpp.messages import Abort, FromRouter, SamplingParams, Submit
from tgi_llamacpp.router.mailbox import Mailbox
from tgi_llamacpp.router.open_sequence import OpenSequence
from tgi_llamacpp.router.resubmission import Resubmission
from tgi_llamacpp.step_page import StepEntry

NUM_TOKENS = 4
PROMPT_TOKENS = 3
MAX_TURNS = 2000


class Silent(Mailbox):
    """Keeps the error alone."""

    error: TgiError | None = None

    def fail(self, error: TgiError) -> None:
        self.error = error


class World:
    """A router and an engine with a wire between them on which things take their time.

    Token i of sequence n is 100 * n + i. kills: of some sequences, the token that engines die of.
    """

    def __init__(self, kills: dict[int, int]) -> None:
        self.kills = kills
        self.open: dict[int, OpenSequence] = {}
        self.got: dict[int, list[int]] = {}
        self.mailboxes: dict[int, Silent] = {}
        self.num_crashes = 0
        self._ids = itertools.count(1)
        self._to_engine: deque[FromRouter] = deque()
        self._to_router: deque[list[tuple[int, int, bool]]] = deque()
        self._engine: dict[int, tuple[int, int]] = {}  # id -> (number, next token)
        self._resubmission = Resubmission(self.open, self._ids, self._to_engine.append)

    def submit(self, number: int) -> None:
        self.mailboxes[number] = mailbox = Silent()
        prompt = array("i", [number] * PROMPT_TOKENS).tobytes()
        sequence = OpenSequence(
            next(self._ids), mailbox, number, prompt, NUM_TOKENS, SamplingParams(), False
        )
        self.open[sequence.seq_id] = sequence
        self.got[number] = []
        self._resubmission.add(sequence)

    def abort(self, number: int) -> None:
        for seq_id, sequence in list(self.open.items()):
            if sequence.choice == number and sequence.mailbox is self.mailboxes.get(number):
                del self.open[seq_id]
                self._to_engine.append(Abort([seq_id]))
                self._resubmission.advance()

    def step(self) -> None:
        """The engine reads what has come, and does a step or dies of it."""
        while self._to_engine:
            message = self._to_engine.popleft()
            if isinstance(message, Submit):
                number = array("i", message.prompt_ids)[0]
                self._engine[message.seq_id] = number, len(message.generated_ids) // 4
            elif isinstance(message, Abort):
                self._engine.pop(message.seq_ids[0], None)
        if any(self.kills.get(number) == index for number, index in self._engine.values()):
            self.crash(is_in_step=True)
            return
        rows = []
        for seq_id, (number, index) in list(self._engine.items()):
            is_last = number == 0 or index + 1 == NUM_TOKENS  # number 0 is the probe
            rows.append((seq_id, 100 * number + index, is_last))
            self._engine[seq_id] = number, index + 1
            if is_last:
                del self._engine[seq_id]
        self._to_router.append(rows)

    def deliver(self) -> None:
        """The router reads the oldest step on the wire."""
        for seq_id, token_id, is_last in self._to_router.popleft() if self._to_router else ():
            sequence = self.open.get(seq_id)
            if sequence is None:
                continue
            sequence.generated_ids.append(token_id)
            if sequence.mailbox is self.mailboxes.get(sequence.choice):
                self.got[sequence.choice].append(token_id)
            if is_last:
                del self.open[seq_id]
        self._resubmission.advance()

    def crash(self, *, is_in_step: bool = False, is_doubted: bool = False) -> None:
        self.num_crashes += 1
        page = [
            StepEntry(seq_id, PROMPT_TOKENS - 1 + index)
            for seq_id, (_, index) in self._engine.items()
            if is_in_step
        ]
        while self._to_router:  # what was written is read before the end of the file
            self.deliver()
        self._engine.clear()
        self._to_engine.clear()
        self._resubmission.blame(page)
        self._resubmission.resume(0 if is_doubted else None)

    def finish(self) -> None:
        for _ in range(MAX_TURNS):
            if not self.open:
                return
            self.step()
            self.deliver()
        raise AssertionError(f"{len(self.open)} sequences never end")


ACTS = ("submit", "abort", "step", "step", "deliver", "deliver", "crash", "crash doubted")


@settings(max_examples=300, deadline=None)
@given(
    kills=st.dictionaries(st.integers(1, 12), st.integers(0, NUM_TOKENS - 1), max_size=4),
    acts=st.lists(st.tuples(st.sampled_from(ACTS), st.integers(1, 12)), max_size=60),
)
def test_every_token_comes_once_and_only_those_that_kill_engines_fail(
    kills: dict[int, int], acts: list[tuple[str, int]]
) -> None:
    async def main() -> None:
        world = World(kills)
        aborted: set[int] = set()
        for act, number in acts:
            if act == "submit" and number not in world.got:
                world.submit(number)
            elif act == "abort" and number in world.got:
                world.abort(number)
                aborted.add(number)
            elif act == "step":
                world.step()
            elif act == "deliver":
                world.deliver()
            elif act.startswith("crash"):
                world.crash(is_doubted=act.endswith("doubted"))
        world.finish()
        for number, tokens in world.got.items():
            end = NUM_TOKENS if kills.get(number) is None else kills[number]
            expected = [100 * number + i for i in range(end)]
            assert tokens == expected or (number in aborted and tokens == expected[: len(tokens)])
            has_failed = world.mailboxes[number].error is not None
            assert has_failed == (number in kills) or number in aborted
            assert not has_failed or isinstance(world.mailboxes[number].error, GenerationError)

    asyncio.run(main())


def test_each_that_kills_engines_takes_few_of_them() -> None:
    async def main() -> None:
        world = World({3: 0, 7: 2, 11: 3})
        for number in range(1, 13):
            world.submit(number)
        world.finish()
        assert world.num_crashes <= 3 * 3
        assert [n for n, box in world.mailboxes.items() if box.error is not None] == [3, 7, 11]

    asyncio.run(main())
