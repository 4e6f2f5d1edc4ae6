"""Which of many scores stands for a run: named beforehand, and not the best on test."""

_LAYERS = ("joint", "head", "backbone", "stage3", "stage2", "stage1", "stem", "projection")
_PROBES = ("linear", "ridge", "linear_sgd", "knn")


def rank(layer: str, probe: str) -> tuple[int, int]:
    """Where a score stands, the lowest first.

    >>> min([("head", "knn"), ("stage3", "linear"), ("head", "linear")], key=lambda s: rank(*s))
    ('head', 'linear')
    """
    return _place(layer, _LAYERS), _place(probe, _PROBES)


def _place(name: str, names: tuple[str, ...]) -> int:
    return names.index(name) if name in names else len(names)
