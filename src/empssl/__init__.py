"""Image representations without labels, in one pass over the data.

The verbs of the command line are functions here, by the same names. They are imported when first
used, so that `import empssl` and `empssl --help` do not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from empssl.benchmarking import bench
    from empssl.checkup import doctor
    from empssl.comparison import compare
    from empssl.embedding import embed
    from empssl.evaluation import evaluate
    from empssl.pretrained import Encoder
    from empssl.quality import examine
    from empssl.reporting import report
    from empssl.reproduction import reproduce
    from empssl.training import train

__version__ = "0.1.0"
__all__ = [
    "Encoder", "bench", "compare", "doctor", "embed", "evaluate", "examine", "report", "reproduce",
    "train",
]  # fmt: skip

_HOMES = {
    "Encoder": "empssl.pretrained",
    "bench": "empssl.benchmarking",
    "compare": "empssl.comparison",
    "doctor": "empssl.checkup",
    "embed": "empssl.embedding",
    "evaluate": "empssl.evaluation",
    "examine": "empssl.quality",
    "report": "empssl.reporting",
    "reproduce": "empssl.reproduction",
    "train": "empssl.training",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'empssl' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
