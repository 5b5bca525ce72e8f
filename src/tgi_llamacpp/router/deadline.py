"""How long a client wants to wait for its answer: the header X-Request-Timeout.

Owns reading it and its limits. router/exchange.py has one for each request, and
router/generation.py keeps to it.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from starlette.types import Scope

from tgi_llamacpp.errors import BodyError

HEADER = "X-Request-Timeout"
MAX_TIMEOUT_S = 86_400
_NAME = HEADER.lower().encode()
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{0,9})?|\.[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Deadline:
    """So many seconds from a request's arrival. at_s: of time.perf_counter()."""

    timeout_s: float
    at_s: float

    @property
    def left_s(self) -> float:
        """Not below 0."""
        return max(0.0, self.at_s - time.perf_counter())


def read_deadline(scope: Scope, started_s: float) -> Deadline | None:
    """What the request asks for; None where it asks for nothing.

    Raises:
        BodyError: 400, it is no number of seconds within the limits.
    """
    value = dict(scope["headers"]).get(_NAME)
    if value is None:
        return None
    text = value.decode("latin-1").strip()
    timeout_s = float(text) if _SECONDS.fullmatch(text) else 0.0
    if not 0 < timeout_s <= MAX_TIMEOUT_S:
        raise BodyError(
            f"`{HEADER}` must be a number of seconds > 0 and <= {MAX_TIMEOUT_S}."
            f" Given: {text[:100]!a}",
            400,
            HEADER,
        )
    return Deadline(timeout_s, started_s + timeout_s)
