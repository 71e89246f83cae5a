"""What a measurement says of itself: on what, with what and when. And where it is kept."""

import datetime
import importlib.metadata
import json
import os
import platform
import re
import statistics
from pathlib import Path
from typing import Any

from narae.config import HOME
from narae.watch import machine


def kept(name: str) -> Path:
    kind = re.sub(r"\W+", "-", f"{os.cpu_count()}-cores-{platform.machine()}")
    return HOME / "bench" / "results" / f"{name}-{kind}.json"


def keep(name: str, found: dict[str, Any], packages: tuple[str, ...]) -> Path:
    file = kept(name)
    about = {
        "machine": machine(),
        "python": platform.python_version(),
        "versions": {package: importlib.metadata.version(package) for package in packages},
        "date": datetime.date.today().isoformat(),
    }
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(found | about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return file


def spread(values: list[float]) -> dict[str, float]:
    return {"median": short(statistics.median(values)), "least": short(min(values)), "most": short(max(values))}


def short(value: float) -> float:
    """Three digits that count."""
    return float(f"{value:.3g}")
