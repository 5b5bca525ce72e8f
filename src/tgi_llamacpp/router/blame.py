"""Whom an engine died of: by progress, and not by attendance.

Pure: positions go in, a verdict comes out. router/engine_client.py keeps one record for each open
sequence, fed from the page that the engine leaves behind.
"""

from __future__ import annotations

from dataclasses import dataclass

_MAX_CRASHES = 2  # at one place; from then on a sequence runs alone until it is past it


@dataclass(slots=True)
class CrashRecord:
    """The crashes of engines that were running one sequence, since it last advanced."""

    num_crashes: int = 0
    position: int = -1  # that the engine was at; prompt and output count
    num_generated: int = -1  # tokens that the router had

    def count(self, position: int, num_generated: int) -> None:
        """An engine died in a step that had this sequence, at this position."""
        has_advanced = position > self.position or num_generated > self.num_generated
        self.num_crashes = 1 if has_advanced else self.num_crashes + 1
        self.position = max(position, self.position)
        self.num_generated = num_generated

    def clear(self) -> None:
        """It ran alone, and nothing happened."""
        self.num_crashes = 0

    @property
    def is_suspect(self) -> bool:
        return self.num_crashes >= _MAX_CRASHES
