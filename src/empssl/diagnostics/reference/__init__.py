"""EMP-SSL as people do write it, from the paper's description: what training is held against.

One Pillow chain a patch in loader processes, one d x d log-determinant a patch index, float32,
contiguous layout, plain autograd, a loop over the parameters. It computes the same loss of the
same views as `empssl.train`, and nothing in it is slow on purpose.
"""

from empssl.diagnostics.reference.pipeline import SlowPipeline

__all__ = ["SlowPipeline"]
