"""Where the time of steps and admissions went, in the terms of TGI's batch metrics.

Counts only; the loop and the scheduler say what they measured, and Stats carries it to the router.
"""

from __future__ import annotations

from tgi_llamacpp.engine.planner import Batch
from tgi_llamacpp.engine.runner import StepResult, StepStatus
from tgi_llamacpp.histogram import DURATION_BOUNDS_S, Histogram
from tgi_llamacpp.messages import SIZE_BOUNDS, AdmissionStats, StepStats


class StepTimes:
    """Of all steps, by what they computed: some prompt (prefill), or next tokens alone (decode)."""

    def __init__(self) -> None:
        self.prefill = _Times()
        self.decode = _Times()

    def add(self, batch: Batch, result: StepResult, step_s: float, delivery_s: float) -> None:
        """Count a step: the time inside Runner.step, and that of handing out what it gave."""
        times = self.prefill if batch.num_prefill else self.decode
        if result.status is StepStatus.OK:
            times.add(step_s, result.sampling_s, delivery_s)
        else:
            times.num_retried += 1


class _Times:
    def __init__(self) -> None:
        self.num_retried = 0
        self._added: list[tuple[float, float, float]] = []  # which nobody has asked for yet
        self._whole = Histogram(DURATION_BOUNDS_S)
        self._forward = Histogram(DURATION_BOUNDS_S)
        self._sampling = Histogram(DURATION_BOUNDS_S)
        self._delivery = Histogram(DURATION_BOUNDS_S)

    def add(self, step_s: float, sampling_s: float, delivery_s: float) -> None:
        self._added.append((step_s, sampling_s, delivery_s))

    def stats(self) -> StepStats:
        """Sorting into histograms waits for this: streams wait for what is done at every step."""
        for step_s, sampling_s, delivery_s in self._added:
            self._whole.observe(step_s + delivery_s)
            self._forward.observe(step_s - sampling_s)
            self._sampling.observe(sampling_s)
            self._delivery.observe(delivery_s)
        self._added.clear()
        return StepStats(
            self.num_retried,
            self._whole.state,
            self._forward.state,
            self._sampling.state,
            self._delivery.state,
        )


class Admissions:
    """Of sequences out of the queue, how many at a time, and how long it took beside others."""

    def __init__(self) -> None:
        self._sizes = Histogram(SIZE_BOUNDS)
        self._joins = Histogram(DURATION_BOUNDS_S)

    def add(self, num_admitted: int, num_running: int, duration_s: float) -> None:
        """Count an admission of sequences, next to num_running that ran before it."""
        if num_admitted <= 0:
            return
        self._sizes.observe(num_admitted)
        if num_running:
            self._joins.observe(duration_s)

    def stats(self) -> AdmissionStats:
        return AdmissionStats(self._sizes.state, self._joins.state)
