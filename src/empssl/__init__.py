"""Image representations without labels, in one pass over the data.

The verbs of the command line are functions here, by the same names. They are imported when first
used, so that `import empssl` and `empssl --help` do not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from empssl._version import __version__

if TYPE_CHECKING:
    from empssl.diagnostics.benchmark import bench
    from empssl.diagnostics.doctor import doctor
    from empssl.evaluation.embed import embed
    from empssl.evaluation.encoder import Encoder
    from empssl.evaluation.evaluate import evaluate
    from empssl.evaluation.examine import examine
    from empssl.experiments.compare import compare
    from empssl.experiments.paper.reproduce import reproduce
    from empssl.reports.run_report import report
    from empssl.training.train import train

__all__ = [
    "Encoder", "__version__", "bench", "compare", "doctor", "embed", "evaluate", "examine",
    "report", "reproduce", "train",
]  # fmt: skip

_HOMES = {
    "Encoder": "empssl.evaluation.encoder",
    "bench": "empssl.diagnostics.benchmark",
    "compare": "empssl.experiments.compare",
    "doctor": "empssl.diagnostics.doctor",
    "embed": "empssl.evaluation.embed",
    "evaluate": "empssl.evaluation.evaluate",
    "examine": "empssl.evaluation.examine",
    "report": "empssl.reports.run_report",
    "reproduce": "empssl.experiments.paper.reproduce",
    "train": "empssl.training.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'empssl' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
