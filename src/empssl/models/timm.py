"""Any backbone of timm, when timm is installed."""

from torch import Tensor, nn

from empssl.errors import UsageError

# What an option that a model does not know, or a value that makes no sense to it, can lead to.
_TIMM_ERRORS = (
    AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError
)  # fmt: skip


class TimmBackbone(nn.Module):
    """A timm model without its classifier, untrained.

    Args:
        model: timm's name for it, such as `resnet18` or `vit_tiny_patch16_224`.
        options: further arguments of `timm.create_model`.

    Raises:
        UsageError: timm is not installed or cannot be imported, does not know the model, or cannot
            make it with these options.
    """

    def __init__(self, *, model: str, options: dict[str, object] | None = None) -> None:
        super().__init__()
        try:
            import timm
        except (ImportError, RuntimeError) as error:
            # RuntimeError: a torchvision built for another torch fails while it is imported.
            raise UsageError(
                f"backbone 'timm' needs the timm package, which cannot be imported ({error}); "
                "install it with: pip install 'empssl[timm]'"
            ) from error
        if not timm.is_model(model):
            raise UsageError(f"timm has no model '{model}'; see timm.list_models()")
        given = options or {}
        try:
            self.model = timm.create_model(model, pretrained=False, num_classes=0, **given)
        except _TIMM_ERRORS as error:
            raise UsageError(f"timm cannot make '{model}' with {given} ({error!r})") from error
        # Some models widen their features in what is left of the head; older timm does not tell.
        width: int = getattr(self.model, "head_hidden_size", self.model.num_features)
        self.dim = width

    def forward(self, x: Tensor) -> Tensor:
        embedding: Tensor = self.model(x)
        return embedding
