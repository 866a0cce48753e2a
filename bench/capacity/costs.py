"""What one call costs, as the bench measured it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.capacity.plan import BadInput


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds for one call: of a core, by role; and what else it takes a call that is alone."""

    client_s: float = 0.0
    api_s: float = 0.0
    nats_s: float = 0.0
    worker_s: float = 0.0
    container_s: float = 0.0  # until the answer: runtime, held init, and the bench's function, which is nearly nothing
    behind_s: float = 0.0  # behind the answer's back: the container's removal
    idle_s: float = 0.0  # nobody computes, and the call is no further: disks, wake-ups

    @property
    def cpu_s(self) -> float:
        """All that is processor time."""
        return self.client_s + self.api_s + self.nats_s + self.worker_s + self.container_s + self.behind_s

    @classmethod
    def measured(cls, cpu_ms: Mapping[str, float], *, alone_ms: float) -> Costs:
        """
        Take what was measured: *cpu_ms* of one call at saturation, by the bench's names of roles, and how long a call
        takes that is alone. Where the processor time is longer than that, the rest of it comes behind the answer's
        back, in the container's removal; where it is shorter, the call waits for something else meanwhile.
        """
        more_s = (sum(cpu_ms.values()) - alone_ms) / 1000
        container_s = cpu_ms["containers"] / 1000
        behind_s = min(max(0.0, more_s), container_s)
        return cls(
            client_s=cpu_ms["client"] / 1000,
            api_s=cpu_ms["api"] / 1000,
            nats_s=cpu_ms["nats"] / 1000,
            worker_s=cpu_ms["worker"] / 1000,
            container_s=container_s - behind_s,
            behind_s=behind_s,
            idle_s=max(0.0, -more_s),
        )

    @classmethod
    def of_bench(cls, file: Path) -> Costs:
        """
        Read what `scripts/bench --json FILE` wrote: of the runtime that is quoted, with as many calls at once as gave
        the best rate.

        Raises: BadInput.
        """
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            by_number = found["contenders"][f"mayfly-{next(iter(found['runtimes']))}"]
            busiest = max(by_number.values(), key=lambda each: each["per_s"])
            return cls.measured(busiest["cpu_ms"], alone_ms=by_number["1"]["p50_ms"])
        except (OSError, ValueError, LookupError, TypeError, AttributeError, StopIteration) as error:
            raise BadInput(
                f"costs, {file}, does not say what a call costs ({type(error).__name__}: {error}) and must be a file "
                "that `scripts/bench --json FILE` wrote: run that"
            ) from error
