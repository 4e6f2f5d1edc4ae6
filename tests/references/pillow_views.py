"""The training views in Pillow: the slow pipeline's own, so that there is one of them."""

from empssl.diagnostics.reference.views import *  # noqa: F403
