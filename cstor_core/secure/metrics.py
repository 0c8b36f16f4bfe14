"""What Prometheus is told of certificates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cstor_core.secure.refusals import Reason

if TYPE_CHECKING:
    from cstor_core.secure.credentials import Tls


class TlsCollector(Collector):
    """The certificate of a process, and whom it has refused."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls

    def describe(self) -> Iterable[Metric]:
        """Nothing: the families are those of `collect`."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client asks."""
        tls = self._tls
        yield GaugeMetricFamily(
            "cstor_tls_certificate_expiry_timestamp_seconds",
            "When the certificate in use ends to be valid, in seconds since 1970.",
            value=tls.current.holder.not_after.timestamp(),
        )
        reloads = CounterMetricFamily(
            "cstor_tls_reloads",
            "Changes of the files that were taken, and that could not be.",
            labels=["result"],
        )
        reloads.add_metric(["taken"], tls.reloads)
        reloads.add_metric(["failed"], tls.failed_reloads)
        yield reloads
        refusals = CounterMetricFamily(
            "cstor_tls_refusals",
            "Peers and calls that were refused, and daemons that were not who was meant.",
            labels=["reason"],
        )
        for reason in Reason:
            refusals.add_metric([reason], tls.refusals.counts[reason])
        yield refusals
