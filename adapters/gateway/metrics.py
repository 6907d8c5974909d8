"""The counts in Prometheus' words. Labels are the gateway's own words and ids of guards and rules, all of them bounded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from shieldkit.adapters.gateway.tally import Histogram, Tally

CONTENT_TYPE = CONTENT_TYPE_LATEST


class _FromTally(Collector):
    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def collect(self) -> Iterator[Metric]:
        tally = self._tally
        yield _counter("requests", "Requests by API and outcome", ("api", "outcome"), tally.requests.items())
        refusals = [((rule, c.guard, c.stage), c.count) for rule, c in tally.refusals.items()]
        yield _counter("refusals", "Refusals by rule", ("rule", "guard", "stage"), refusals)
        watched = [((rule,), n) for rule, n in tally.watched.items()]
        yield _counter("watched", "What a policy in monitor mode would have blocked, by rule", ("rule",), watched)
        yield _counter("errors", "Errors by code", ("code",), [((code,), n) for code, n in tally.errors.items()])
        tokens = [(("input",), tally.usage.input_tokens), (("output",), tally.usage.output_tokens)]
        yield _counter("tokens", "Tokens by direction", ("direction",), tokens)
        yield GaugeMetricFamily("shieldkit_gateway_in_flight", "Requests under way", value=tally.in_flight)
        whole = HistogramMetricFamily("shieldkit_gateway_request_seconds", "How long a request took")
        whole.add_metric([], *_buckets(tally.seconds))
        yield whole
        guards = HistogramMetricFamily(
            "shieldkit_gateway_guard_seconds", "How long a guard took", labels=["guard", "stage"]
        )
        for labels, histogram in tally.guards.items():
            guards.add_metric(list(labels), *_buckets(histogram))
        yield guards


def registry(tally: Tally) -> CollectorRegistry:
    """A registry of its own, so that nothing of the host application's gets in."""
    made = CollectorRegistry(auto_describe=False)
    made.register(_FromTally(tally))
    return made


def exposition(metrics: CollectorRegistry) -> bytes:
    """The text that Prometheus reads."""
    return generate_latest(metrics)


def _counter(name: str, about: str, labels: tuple[str, ...], counts: Iterable[tuple[tuple[str, ...], int]]) -> Metric:
    family = CounterMetricFamily(f"shieldkit_gateway_{name}", about, labels=labels)
    for values, count in counts:
        family.add_metric(list(values), count)
    return family


def _buckets(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    bounds = [*(f"{bound:g}" for bound in histogram.bounds), "+Inf"]
    return list(zip(bounds, accumulate(histogram.counts), strict=True)), histogram.sum
