"""What a worker counts: what became of its claims, how long each step took, slots, containers, images. Rows: A5, D4."""

from __future__ import annotations

from collections import Counter

from mayfly.bus.connection import Bus
from mayfly.domain.activation import Activation, State
from mayfly.images.store import PULL_OUTCOMES, ImageStore
from mayfly.services.metrics import NO_CODE, Metrics, Values
from mayfly.settings import ImageSettings

STEPS = ("admit", "queue", "image", "start", "run")
FENCES = ("start", "result")


class WorkerMetrics(Metrics):
    """Those of one worker."""

    role = "worker"

    def __init__(self) -> None:
        """Nothing has been claimed."""
        super().__init__()
        self._images: ImageStore | None = None
        self._ended = self._counter(
            "mayfly_worker_activations_total",
            "Activations that this worker claimed and ended: final state, the error's code (`none` for a result) and "
            "whether the function ran.",
            *("state", "code", "ran"),
        )
        steps = self._histogram(
            "mayfly_activation_step_duration_seconds",
            "How long each step took, of the activations that this worker ended. `admit`: at the API server, until it "
            "was queued; `queue`: until it was claimed; `image`: until image and container were ready; `start`: from "
            "the command to the first byte of output; `run`: from the command to the last process's end.",
            "step",
        )
        self._fences = self._counter(
            "mayfly_fences_lost_total",
            "Activations whose record somebody else had moved when this worker wanted to: before the start (nothing "
            "was run) or at the result (this worker had been taken for lost).",
            "fence",
        )
        self.slots = self._gauge("mayfly_worker_slots", "Activations that this worker may run at once.")
        self.slots_in_use = self._gauge("mayfly_worker_slots_in_use", "Activations that this worker works on now.")
        self.containers_created = self._counter("mayfly_containers_created_total", "Containers created.")
        self.containers_removed = self._counter(
            "mayfly_containers_removed_total", "Containers removed, and verified that nothing of them is left."
        )
        self.containers_left = self._counter(
            "mayfly_containers_left_total", "Containers of which something was left after all attempts to remove it."
        )
        self._cache_limit = self._gauge(
            "mayfly_image_cache_limit_bytes", "What unpacked images may take before the longest unused go."
        )
        self._show_images()
        self._steps = {step: steps.labels(step) for step in STEPS}
        for fence in FENCES:
            self._fences.labels(fence)
        self._ended.labels(State.SUCCEEDED, NO_CODE, "yes")

    @classmethod
    def of(cls, bus: Bus, images: ImageStore, settings: ImageSettings) -> WorkerMetrics:
        """Make those of a worker that has this connection and this image store, with these settings."""
        metrics = cls()
        metrics.follow(bus)
        metrics._images = images
        metrics._cache_limit.set(settings.image_cache_bytes)
        return metrics

    def _show_images(self) -> None:
        used = self._gauge("mayfly_image_cache_bytes", "What the unpacked images on this worker take.")
        used.set_function(lambda: self._images.usage_bytes if self._images else 0)
        count = self._gauge("mayfly_image_cache_images", "Unpacked images on this worker.")
        count.set_function(lambda: self._images.count if self._images else 0)
        self._counted_elsewhere(
            "mayfly_image_pulls_total",
            "Images fetched from a registry, or not: `failed` is the registry's refusal or silence as well as an image "
            "that cannot be unpacked.",
            self._pulls,
            "outcome",
        )

    def _pulls(self) -> Values:
        pulls: Counter[str] = self._images.pulls if self._images else Counter()
        return [((outcome,), pulls[outcome]) for outcome in PULL_OUTCOMES]

    def ended(self, record: Activation) -> None:
        """Count an activation that this worker has ended, and the steps that it went through."""
        self._ended.labels(record.state, record.code or NO_CODE, record.ran).inc()
        for step in STEPS:
            seconds = getattr(record.steps, f"{step}_s")
            if seconds is not None:
                self._steps[step].observe(seconds)

    def fence_lost(self, fence: str) -> None:
        """Count a fence that somebody else has won: one of `FENCES`."""
        self._fences.labels(fence).inc()
