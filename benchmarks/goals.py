"""The rows of the project's table of goals: what runs, against whom, and the ratio to be reached.

A row names its scenarios and the flags with which llama-server's documentation would have it run
such a workload, beside its defaults. Read by bench_serving (--row) and by compare, which says of
each goal whether it is reached. Knows no server and no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

OURS = "tgi-llamacpp"
THEIRS = "llama-server"
BATCHED = "llama-batched-bench"
NO_OPENMP = "build/reference-no-openmp/bin/llama-server"  # build_reference --no-openmp
# Two processes of nice 10 on two cores beside two threads: a thread has 1024 of 1134 shares of a
# core. A twentieth is for what threads lose by waiting for each other.
FAIR_SHARE = 1024 / (1024 + 110) - 0.05
_LIMITED_SHARE = 0.8  # of a fair share of the machine, where others have as much or a quota is set
_LIMITED_GAIN = 1.3  # over llama-server


@dataclass(frozen=True)
class Goal:
    """Of a metric, our value over another's: at least `least`, or at most `most`.

    `reach`: what the largest ratio of all pairs must come to besides. `reference`: a scenario whose
    value of ours is then the other's.
    """

    scenario: str
    metric: str
    least: float | None = None
    most: float | None = None
    reach: float | None = None
    group: str = "all"
    baseline: str = THEIRS
    reference: str | None = None

    def is_reached(self, ratio: list[float]) -> bool:
        """ratio: [median, smallest, largest] of the pairs."""
        median, _, largest = ratio
        return (
            (self.least is None or median >= self.least)
            and (self.most is None or median <= self.most)
            and (self.reach is None or largest >= self.reach)
        )

    def __str__(self) -> str:
        parts = [
            "" if self.least is None else f"at least {self.least:.3g}",
            "" if self.most is None else f"at most {self.most:.3g}",
            "" if self.reach is None else f"an interval that reaches {self.reach:.3g}",
        ]
        return ", ".join(filter(None, parts))


@dataclass(frozen=True)
class Row:
    """`tuned`: flags of llama-server for this workload, one contestant each."""

    name: str
    scenarios: tuple[str, ...]
    goals: tuple[Goal, ...]
    tuned: tuple[str, ...]
    with_batched: bool = False

    def contestants(self, repository: Path) -> list[str]:
        """As bench_serving's --contestant has them; the build without OpenMP where it is there."""
        names = [THEIRS, *(f"{THEIRS} {flags}" for flags in self.tuned)]
        if (repository / NO_OPENMP).exists():
            path = repository / NO_OPENMP
            names.append(f"no-openmp={path}")
            names += [f"'no-openmp {flags}'={path} {flags}" for flags in self.tuned]
        return [*names, *([BATCHED] if self.with_batched else []), OURS]


def _equal_row(num_streams: int, tuned: tuple[str, ...]) -> Row:
    name = f"streams-{num_streams}"
    goals = (
        Goal(name, "tokens_per_s", least=0.98, reach=1.0),
        Goal(name, "tokens_per_s", least=0.97, baseline=BATCHED),
    )
    return Row(name, (name,), goals, tuned, with_batched=True)


def _sampled(name: str, gain: float) -> Row:
    goals = (
        Goal(name, "gap_ms_p50", most=1 / gain),
        Goal(name, "gap_ms_p50", most=1.05, reference="greedy-0.5B"),
    )
    return Row(name.removesuffix("-0.5B"), ("greedy-0.5B", name), goals, ("-bs",))


def _limited_row(name: str, fair_share: float) -> Row:
    """streams-8 with a part of the machine's CPU time."""
    scenario = f"{name}-8"
    goals = (
        Goal(scenario, "tokens_per_s", least=_LIMITED_GAIN),
        Goal(scenario, "tokens_per_s", least=_LIMITED_SHARE * fair_share, reference="streams-8"),
    )
    return Row(name, ("streams-8", scenario), goals, ())


_LONG_GOALS = (
    Goal("long-arrival", "gap_ms_max", most=1 / 20, group="decoding"),
    Goal("long-arrival", "ttft_ms_p50", most=1.2, group="arriving"),
)
_ROWS = (
    _equal_row(1, ("-kvu",)),
    _equal_row(4, ("-kvu",)),
    _equal_row(16, ("-kvu",)),
    Row("streams-7", ("streams-7",), (Goal("streams-7", "tokens_per_s", least=1.15),), ("-kvu",)),
    Row("churn", ("churn-8",), (Goal("churn-8", "tokens_per_s", least=1.7),), ("-kvu", "-np 8")),
    _sampled("top-p-0.5B", 1.7),
    _sampled("penalty-0.5B", 2.2),
    Row("prefix-cold", ("prefix-cold",), (Goal("prefix-cold", "wall_s", most=1 / 3),), ("-kvu",)),
    Row("prefix-warm", ("prefix-warm",), (Goal("prefix-warm", "wall_s", most=2 / 3),), ("-kvu",)),
    Row("long-arrival", ("long-arrival",), _LONG_GOALS, ("-b 128 -ub 128", "-b 64 -ub 64")),
    Row(
        "beside",
        ("streams-8", "beside-8"),
        (Goal("beside-8", "tokens_per_s", least=FAIR_SHARE, reference="streams-8"),),
        (),
    ),
    _limited_row("beside-equal", 1 / 2),
    _limited_row("quota-1.0", 1.0 / 2),
    _limited_row("quota-1.5", 1.5 / 2),
)
ROWS = {row.name: row for row in _ROWS}
