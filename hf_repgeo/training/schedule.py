"""The steps at which a training is measured, and how a budget of time thins them."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, log2, sqrt

GUARANTEED = 6  # points that are measured whatever the budget, spread over the training
STEPWISE = ("log-spaced", "steps")
SCHEDULES = (*STEPWISE, "epochs", "evaluate", "save")
DEFAULT_EVERY = {"steps": 100}


def planned_steps(schedule: str | None, every: int, last: int) -> list[int]:
    """The steps at which a training of `last` steps is measured, ascending.

    Args:
        schedule: `"steps"`: each multiple of `every`. `"log-spaced"`: 1, 2, 5, 10, 20, 50, 100 ... times `every`. If
            the training ends before the first of them, its last step. `None`: log-spaced, and also the last step; if
            these are fewer than six points, further ones in the widest gaps. Anything else: no step.
        every: the unit.
        last: the training's last step.

    Example:
        >>> from hf_repgeo.training.schedule import planned_steps
        >>> planned_steps(None, 1, 60)
        [1, 2, 5, 10, 20, 50, 60]
        >>> planned_steps("steps", 25, 60)
        [25, 50]
    """
    if schedule not in (None, *STEPWISE) or last < 1:
        return []
    if schedule == "steps":
        return list(range(every, last + 1, every)) or [last]
    powers = range(len(str(last // every)))
    steps = [m * 10**p * every for p in powers for m in (1, 2, 5) if m * 10**p * every <= last]
    return _filled({1, *steps, last}) if schedule is None else steps or [last]


def _filled(points: set[int]) -> list[int]:
    """At least `GUARANTEED` steps, the new ones in the middle of the widest gap on a logarithmic axis."""
    steps = sorted(points)
    while len(steps) < GUARANTEED:
        gaps = [(high / low, low, high) for low, high in zip(steps, steps[1:]) if high - low > 1]
        if not gaps:
            break
        _, low, high = max(gaps)
        steps = sorted([*steps, min(max(round(sqrt(low * high)), low + 1), high - 1)])
    return steps


@dataclass
class Thinning:
    """Decides which of the planned steps are measured, so that measuring stays within a share of the training time.

    Six steps, spread evenly over the plan from its first to its last, are always measured. Of the others every k-th is
    measured, where k is the smallest power of two that keeps the budget at the pace and cost seen so far. The result
    is the same schedule with wider gaps.

    Attributes:
        planned: the steps, ascending.
        share: largest share of the training time for the measuring beyond the six; `None`: no limit.
        started: `(step, second)` at which the training began or was resumed.
        spent, cost: seconds that all measurements and the latest one took.
    """

    planned: list[int]
    share: float | None
    started: tuple[int, float]
    spent: float = 0.0
    cost: float | None = None
    _place: dict[int, int] = field(init=False)
    _kept: set[int] = field(init=False)

    def __post_init__(self):
        last = max(len(self.planned) - 1, 0)
        places = {round(i * last / (GUARANTEED - 1)) for i in range(GUARANTEED)}
        self._kept = {step for place, step in enumerate(self.planned) if place in places}
        self._place = {step: place for place, step in enumerate(self.planned)}

    def plans(self, step: int) -> bool:
        """Whether the plan names this step."""
        return step in self._place

    def stride(self, step: int, now: float) -> int:
        """k: every k-th planned step can be afforded."""
        if self.share is None or self.cost is None:
            return 1
        pace = max(now - self.started[1] - self.spent, 0.0) / max(step - self.started[0], 1)
        training = pace * (self.planned[-1] - self.started[0])
        affordable = max(self.share * training / max(self.cost, 1e-9), 1e-9)  # measurements beyond the six
        return 2 ** max(0, ceil(log2(len(self.planned) / affordable)))

    def keeps(self, step: int, stride: int) -> bool:
        """Whether a planned step is measured under this stride."""
        return step in self._kept or (self._place[step] + 1) % stride == 0

    def took(self, seconds: float) -> None:
        """Counts a measurement."""
        self.spent, self.cost = self.spent + seconds, seconds
