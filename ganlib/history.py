"""What training recorded: named scalars by step, and snapshots."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganlib.guards import require_at_least, require_finite


class History:
    """Named scalars by step, and snapshots.

    `series("loss/D")` is a pair of arrays, steps and values. Names: "loss/D", "loss/G" and what
    the losses log, at every step; "grad/D", "grad/G" (Euclidean norms over all weights of a player)
    at every `log_every`-th step and at the last. `snapshots[step]` is what `snapshot(state)`
    returned after that step. Of several seeds at once (`ganlib.seeds`) each number is a list.
    """

    def __init__(self) -> None:
        self.scalars: dict[str, list[tuple[int, Any]]] = {}
        self.snapshots: dict[int, Any] = {}

    def record(self, step: int, values: dict[str, Any]) -> None:
        """Add one value to each of the named series; FloatingPointError if one is not finite."""
        require_at_least(0, step=step)
        for name, number in values.items():
            require_finite(name, number, step)
        for name, number in values.items():
            self.scalars.setdefault(name, []).append((step, number))

    def series(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The steps and the values recorded under a name; ValueError for an unknown one."""
        rows = self._rows(name)
        return np.array([step for step, _ in rows]), np.array([number for _, number in rows])

    def last(self, *names: str) -> dict[str, float]:
        """The last value under each name, of several seeds their mean; ValueError as `series`."""
        return {name: float(np.mean(self._rows(name)[-1][1])) for name in names}

    def _rows(self, name: str) -> list[tuple[int, Any]]:
        if name not in self.scalars:
            raise ValueError(f"one of {sorted(self.scalars)} expected, got {name!r}")
        return self.scalars[name]

    def read_back(self, pending: list[tuple[int, dict[str, Tensor]]]) -> None:
        """Record scalars that still lie on the device, by one transfer, and empty `pending`.

        FloatingPointError for the first that is not finite; those before its step are recorded.
        """
        if not pending:
            return
        numbers = torch.stack([v.float() for _, logs in pending for v in logs.values()]).tolist()
        rows, position = list(pending), 0
        pending.clear()
        for step, logs in rows:
            values = dict(zip(logs, numbers[position : position + len(logs)], strict=True))
            position += len(logs)
            self.record(step, values)
