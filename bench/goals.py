"""A goal of the project and what a run found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """`number` is that of the list in the lab book. `measured` None: not measured in this run, or claimed nowhere because of noise.
    `limit`: what stands in the way."""

    number: str
    text: str
    wanted: float
    measured: float | None
    at_most: bool = False
    limit: str = ""

    @property
    def met(self) -> bool | None:
        if self.measured is None:
            return None
        return self.measured <= self.wanted if self.at_most else self.measured >= self.wanted

    def relaxed(self, share: float = 0.75) -> bool | None:
        """Whether `share` of the goal is met: what a noisy machine may be asked."""
        if self.measured is None:
            return None
        return self.measured <= self.wanted / share if self.at_most else self.measured >= self.wanted * share
