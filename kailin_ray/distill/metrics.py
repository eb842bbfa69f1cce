"""Prometheus metrics of a run, on the endpoint that Ray has on each machine, next to Ray's and vLLM's own metrics.

Prometheus stores them as ``ray_kailin_ray_<name>`` (counters end with ``_total``), with Ray's labels for machine and
worker. ``cluster/grafana/kailin_ray.json`` shows them.
"""

from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from kailin_ray.distill.accounting import PhaseProgress
from kailin_ray.engines.metering import DOINGS, TOKENS, Account

Defined = dict[str, tuple[tuple[str, ...], str]]
"""Metrics by name: the labels in addition to those that all metrics of the kind have, and the description."""
SEARCH_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

ENGINE: Defined = {
    "rows": (("status",), "Abstracts that left this stage, by status"),
    "not_accepted": (("reason",), "Abstracts that were rejected or failed at this stage, by reason"),
    "tokens": (("kind",), "Tokens of this engine's calls: prompt, cached (the cached share of prompt), completion"),
    "engine_seconds": (("state",), "This engine's time: start, busy, retrieval, idle"),
    "searches_retried": ((), "Questions sent again, or to another retriever, because the first retriever had died"),
}
"""Counters of an engine; all have the label ``stage``."""
IN_FLIGHT: Defined = {
    "calls_in_flight": ((), "Calls in the engine"),
    "searches_in_flight": ((), "Questions at the retrievers"),
}
"""Gauges of an engine; all have the label ``stage``."""
RUN: Defined = {
    "documents": (("state",), "Abstracts of the current phase: total, done"),
    "engines": (("state",), "Engines of the current phase: wanted, begun, ready"),
    "seconds_left": ((), "Seconds until the end of the current phase, at the rate of the last minutes"),
}
"""Gauges of a run; all have the label ``run``, the name of its folder."""


class Metrics:
    """Metrics of one kind that share labels."""

    def __init__(self, kind: Any, defined: Defined, **labels: str):
        self._made = {}
        self._last: dict[tuple[str, ...], float] = {}
        for name, (own_labels, description) in defined.items():
            metric = kind(f"kailin_ray_{name}", description, tag_keys=(*labels, *own_labels))
            metric.set_default_tags(labels)
            self._made[name] = metric

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge to ``value``, or increase a counter to ``value``."""
        metric = self._made[name]
        if isinstance(metric, Gauge):
            metric.set(value, labels)
            return
        key = (name, *labels.values())
        if (increase := value - self._last.get(key, 0.0)) > 0:
            metric.inc(increase, labels)
            self._last[key] = value


class EngineMetrics:
    """Metrics of one engine: its account (see ``metering``), and the search time of its questions."""

    def __init__(self, stage: str):
        self._counters = Metrics(Counter, ENGINE, stage=stage)
        self._gauges = Metrics(Gauge, IN_FLIGHT, stage=stage)
        description = "Seconds until a question has its contexts"
        self._search = Histogram("kailin_ray_search_seconds", description, list(SEARCH_SECONDS), ("stage",))
        self._search.set_default_tags({"stage": stage})

    def count_search(self, seconds: float) -> None:
        """Count a finished search that took ``seconds``."""
        self._search.observe(seconds)

    def show(self, account: Account) -> None:
        """Set the metrics to the values of an account."""
        for status, number in account["rows"].items():
            self._counters.set("rows", number, status=status)
        for reason, number in account["reasons"].items():
            self._counters.set("not_accepted", number, reason=reason)
        for name in TOKENS:
            self._counters.set("tokens", account[name], kind=name.removesuffix("_tokens"))
        for state in DOINGS:
            self._counters.set("engine_seconds", account[state], state=state)
        self._counters.set("searches_retried", account["searches_retried"])
        self._gauges.set("calls_in_flight", account["in_flight"])
        self._gauges.set("searches_in_flight", account["searching"])


class RunMetrics:
    """Metrics of a run's progress, set by its driver."""

    def __init__(self, run: str):
        self._gauges = Metrics(Gauge, RUN, run=run)

    def show(self, progress: PhaseProgress, rate: float | None) -> None:
        """Set the metrics to the progress in the session's file (see ``monitor``); ``rate``: abstracts per second."""
        self._gauges.set("documents", progress["total"], state="total")
        self._gauges.set("documents", progress["done"], state="done")
        self._gauges.set("engines", progress["engines"]["ready"], state="ready")
        self._gauges.set("engines", progress["engines"]["wanted"], state="wanted")
        self._gauges.set("engines", progress["engines"]["begun"], state="begun")
        if rate:
            self._gauges.set("seconds_left", (progress["total"] - progress["done"]) / rate)
