"""What `GET /metrics` tells, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from segops.serve.pool import Pool, Source

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 30.0)
KNOWN = frozenset({"/predict", "/marks", "/model", "/metrics", "/ready", "/health", "/"})


class Metrics:
    """Counters of this server, and gauges of its pool.

    Attributes:
        in_flight: Requests that have no answer yet.
        images: Images by outcome: `predicted`, or the status of the error.
        changes: Models that took over (`taken`) or were refused (`refused`).
    """

    def __init__(self, pool: Pool) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series each
        self._registry = CollectorRegistry()
        registry = self._registry
        self._requests = Counter(
            "segops_requests", "Requests by path and status.", ["path", "status"], registry=registry
        )
        self._seconds = Histogram(
            "segops_request_seconds",
            "Seconds from the head of a request to the end of its answer.",
            ["path"],
            buckets=SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge(
            "segops_in_flight", "Requests that have no answer yet.", registry=registry
        )
        self.images = Counter("segops_images", "Images by outcome.", ["outcome"], registry=registry)
        self.changes = Counter(
            "segops_model_changes",
            "Models that took over, or were refused.",
            ["outcome"],
            registry=registry,
        )
        registry.register(_PoolGauges(pool))

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        known = path if path in KNOWN else "other"  # a client must not make new series
        self._requests.labels(known, str(status)).inc()
        self._seconds.labels(known).observe(seconds)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _PoolGauges:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        """Yield what the pool holds now."""
        pool = self._pool
        for name, text, value in (
            ("segops_queue_length", "Images that wait.", pool.waiting),
            ("segops_images_running", "Images being predicted.", pool.running),
            ("segops_workers", "Workers that can predict.", pool.live),
            ("segops_worker_restarts", "Workers that were started again.", pool.restarts),
        ):
            yield GaugeMetricFamily(name, text, value)
        info = GaugeMetricFamily(
            "segops_model_info", "1 for every model that is served.",
            labels=["key", "name", "version", "digest"],
        )  # fmt: skip
        models: Mapping[str, Source] = pool.models
        for key, source in models.items():
            told = source.told
            info.add_metric([key, told["name"], told["version"] or "", source.digest], 1)
        yield info
