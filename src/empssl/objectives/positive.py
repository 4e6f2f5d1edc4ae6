"""Options that must be positive: something is divided by them, or they stand under a root."""

LEAST_TEMPERATURE = 1e-6  # cosines over less have gradients whose squares float32 cannot hold


def check_positive(*, least: float = 0.0, **options: float | int) -> None:
    """See that options are positive.

    Args:
        least: that they may be; 0 is not allowed in any case.
        options: by name.

    Raises:
        ValueError: one is not.
    """
    for name, value in options.items():
        if not (value > 0 and value >= least):
            more = f", {least:g} or more" if least else ""
            raise ValueError(f"{name} is {value}, expected a positive number{more}")
