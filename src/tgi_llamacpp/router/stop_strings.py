"""Finding stop strings in text that arrives in pieces.

Owns the one definition: a text stops where the first stop string is complete (the longest of those
that are complete there), however it was cut into pieces. Called by router/generation.py per token.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Lets text through up to a stop string.

    With `keep_stop` text passes at once, up to and with the stop string (TGI's routes). Without it
    what may become a stop string is held back, and the stop string is cut (OpenAI's).
    """

    def __init__(self, stops: Sequence[str], *, keep_stop: bool) -> None:
        assert all(stops)
        self._stops = stops
        self._keep_stop = keep_stop
        self._held = ""  # from the first place where a stop string may have begun
        self.is_stopped = False

    def push(self, text: str) -> str:
        """The part of all text so far that may now be shown and was not yet."""
        if not self._stops:
            return text
        num_shown = len(self._held) if self._keep_stop else 0
        self._held += text
        end, start = self._first_match()
        if end:
            self.is_stopped = True
            visible = self._held[num_shown : end if self._keep_stop else start]
            self._held = ""
            return visible
        start = self._first_candidate()
        visible = self._held[num_shown:] if self._keep_stop else self._held[:start]
        self._held = self._held[start:]
        return visible

    def flush(self) -> str:
        """What was held back, now that no more text comes."""
        held, self._held = self._held, ""
        return "" if self._keep_stop else held

    def _first_match(self) -> tuple[int, int]:
        """(end, start) of the stop string that is complete first; (0, 0) if there is none."""
        best = (0, 0)
        for stop in self._stops:
            start = self._held.find(stop)
            end = start + len(stop)
            if start >= 0 and (best == (0, 0) or (end, start) < best):
                best = (end, start)
        return best

    def _first_candidate(self) -> int:
        """Where the earliest unfinished stop string begins; the length of the text if nowhere."""
        return min(_candidate(self._held, stop) for stop in self._stops)


def _candidate(text: str, stop: str) -> int:
    start = max(len(text) - len(stop) + 1, 0)
    while (start := text.find(stop[0], start)) >= 0:
        if stop.startswith(text[start:]):
            return start
        start += 1
    return len(text)
