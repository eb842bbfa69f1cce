"""A run as Prometheus metrics, on the endpoint that Ray has on each machine; Ray's and vLLM's own stand beside them.

Prometheus sees ``ray_kailin_ray_<name>``, counters with ``_total``, with Ray's labels of machine and worker.
``cluster/grafana/kailin_ray.json`` shows them.
"""

from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from kailin_ray.distill.accounting import PartProgress
from kailin_ray.engines.metering import DOINGS, TOKENS, Account

Defined = dict[str, tuple[tuple[str, ...], str]]
"""By name: labels beside those that all of a kind have, and what it says."""
SEARCH_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

ENGINE: Defined = {
    "rows": (("status",), "Abstracts that left this stage, by status"),
    "not_accepted": (("reason",), "Abstracts that were rejected or failed at this stage, by reason"),
    "tokens": (("kind",), "Tokens of this engine's calls: prompt, those of it that were cached, completion"),
    "engine_seconds": (("state",), "This engine's time: start, busy, retrieval, idle"),
    "searches_retried": ((), "Questions put to another retriever, or again, as the one that was asked had died"),
}
"""Counters of an engine, all labelled with its stage."""
IN_FLIGHT: Defined = {
    "calls_in_flight": ((), "Calls in the engine"),
    "searches_in_flight": ((), "Questions at the retrievers"),
}
"""Gauges of an engine, labelled so, too."""
RUN: Defined = {
    "documents": (("state",), "Abstracts of the part at work: total, done"),
    "engines": (("state",), "Engines of the part at work: wanted, begun, ready"),
    "seconds_left": ((), "Seconds to the end of the part at work, at the rate of the last minutes"),
}
"""Gauges of a run, all labelled with the name of its folder."""


class Metrics:
    """Metrics of one kind with the labels that all of them have."""

    def __init__(self, kind: Any, defined: Defined, **labels: str):
        self._made = {}
        self._last: dict[tuple[str, ...], float] = {}
        for name, (more, about) in defined.items():
            made = kind(f"kailin_ray_{name}", about, tag_keys=(*labels, *more))
            made.set_default_tags(labels)
            self._made[name] = made

    def set(self, name: str, value: float, **labels: str) -> None:
        """Let a gauge be ``value``, or a counter have reached it."""
        metric = self._made[name]
        if isinstance(metric, Gauge):
            metric.set(value, labels)
            return
        key = (name, *labels.values())
        if (more := value - self._last.get(key, 0.0)) > 0:
            metric.inc(more, labels)
            self._last[key] = value


class EngineMetrics:
    """What one engine's account says (see ``metering``), and how long its questions waited for their contexts."""

    def __init__(self, stage: str):
        self._counters = Metrics(Counter, ENGINE, stage=stage)
        self._gauges = Metrics(Gauge, IN_FLIGHT, stage=stage)
        about_search = "Seconds until a question has its contexts"
        self._search = Histogram("kailin_ray_search_seconds", about_search, list(SEARCH_SECONDS), ("stage",))
        self._search.set_default_tags({"stage": stage})

    def count_search(self, seconds: float) -> None:
        """A question has its contexts."""
        self._search.observe(seconds)

    def show(self, account: Account) -> None:
        """Show an account."""
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
    """How far a run is, told by its driver."""

    def __init__(self, run: str):
        self._gauges = Metrics(Gauge, RUN, run=run)

    def show(self, progress: PartProgress, rate: float | None) -> None:
        """Show what the session's file says (see ``monitor``), and the time left at ``rate`` abstracts/s."""
        self._gauges.set("documents", progress["total"], state="total")
        self._gauges.set("documents", progress["done"], state="done")
        self._gauges.set("engines", progress["engines"]["ready"], state="ready")
        self._gauges.set("engines", progress["engines"]["wanted"], state="wanted")
        self._gauges.set("engines", progress["engines"]["begun"], state="begun")
        if rate:
            self._gauges.set("seconds_left", (progress["total"] - progress["done"]) / rate)
