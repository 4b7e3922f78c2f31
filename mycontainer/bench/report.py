"""A run as a table."""

from __future__ import annotations

from mycontainer.bench import numbers
from mycontainer.bench.run import Run


def show(run: Run) -> None:
    for series in ("byte", "page"):
        base = run.values("process", series)
        for name in run.subjects:
            values = run.values(name, series)
            if values:
                print(f"{series} {name:12} {len(values):3} {numbers.median(values) * 1e3:9.2f} ms", numbers.ratio(values, base))
        if again := run.values("process-again", f"aa-{series}"):
            print("visible", numbers.visible(base, again))
    print(run.missing, run.failures, run.notes)
