"""Benchmark suite for open-set facial expression recognition.

    import open_set_fer as osf

    task = osf.load_task("ferplus", open=["surprise"], seed=0)
    detection = osf.detect(task, "energy")
    task.measure(detection.unknown_score, detection.predicted_class)

The functions live in `open_set_fer.api`, which is imported when one of them is first used.
"""

from typing import TYPE_CHECKING, Any

from open_set_fer.version import __version__

if TYPE_CHECKING:
    from open_set_fer.api import Task, detect, evaluate, load_task, report, results, run, tune

__all__ = ["Task", "__version__", "detect", "evaluate", "load_task", "report", "results", "run", "tune"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from open_set_fer import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
