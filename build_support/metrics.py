"""``python -m build_support.metrics``: docs/metrics.md, from eniway/metrics.py."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prometheus_client.metrics import MetricWrapperBase

from eniway import metrics

PAGE: Final = Path(__file__).resolve().parent.parent / "docs/metrics.md"
_HEAD: Final = """\
# Metrics

`GET /metrics` of the node daemon (port 9530), of the operator (9531) and of the extender (9534), in the Prometheus or
OpenMetrics format, to whoever reaches the port. Base units; no label names a pod. A histogram has the
series `_bucket`, `_sum` and `_count`; its buckets begin at 1 ms, the extender's at 0.25 ms. Beside them stand
`process_*` of the process itself.
How Prometheus finds them, recording rules, alerts and dashboards: [observing.md](observing.md).

Written by `make manifests` from [eniway/metrics.py](../eniway/metrics.py), which is the truth.

| name | type | labels | meaning |
|---|---|---|---|
"""


def all_of_them() -> Iterator[MetricWrapperBase]:
    """Every metric of eniway/metrics.py."""
    yield from (value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase))


def exposed(metric: MetricWrapperBase) -> str:
    """The name that a query says, without a histogram's ending."""
    (family,) = metric.describe()
    return f"{family.name}_total" if family.type == "counter" else str(family.name)


def labels(metric: MetricWrapperBase) -> tuple[str, ...]:
    """Its label names."""
    return tuple(metric._labelnames)  # noqa: SLF001 -- the library has no other word for them


def page() -> str:
    """The page as it has to be."""
    rows = []
    for metric in all_of_them():
        (family,) = metric.describe()
        names = ", ".join(f"`{label}`" for label in labels(metric))
        rows.append(f"| `{exposed(metric)}` | {family.type} | {names} | {family.documentation} |\n")
    return _HEAD + "".join(sorted(rows))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
