"""stub"""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mycontainer.bench.kernel import bench_dir

IMAGES: dict[str, tuple[str, ...]] = {}


def path(name: str) -> Path:
    return bench_dir() / f"{name}.ext4"


def versions(name: str) -> dict[str, str]:
    return {}


def build(name: str, report: Callable[[str], None], part: Path) -> None:
    return None
