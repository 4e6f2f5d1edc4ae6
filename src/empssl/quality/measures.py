"""The measures by name: what each means, which way is healthy, and who published it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from empssl.healthy import Healthy, health
from empssl.quality.discriminants import lidar, separation
from empssl.quality.fill import fill
from empssl.quality.power_law import alpha_req
from empssl.quality.rank import covariance_rank, rankme
from empssl.quality.rotation import rotation
from empssl.quality.sphere import alignment, uniformity

Of = Literal["bags", "views", "turns"]


@dataclass(frozen=True)
class Measure:
    """One measure of health.

    Attributes:
        function: embeddings to a number.
        of: which embeddings it takes: `bags`, one row an image; `views`, several patches of each;
            `turns`, whole images turned four ways.
        healthy: where good values lie.
        meaning: what the number is, in a sentence.
        source: who published it.
    """

    function: Callable[..., float]
    of: Of
    healthy: Healthy
    meaning: str
    source: str

    def health(self, value: float) -> float:
        """The value on a scale on which larger is healthier."""
        return health(value, self.healthy)


MEASURES = {
    "rankme": Measure(
        rankme, "bags", "higher", "directions that embeddings use; 1 is collapse",
        "Garrido et al. 2023",
    ),
    "covariance_rank": Measure(
        covariance_rank, "bags", "higher", "directions that share the variance; 1 is collapse",
        "Roy & Vetterli 2007",
    ),
    "alpha_req": Measure(
        alpha_req, "bags", "near 1",
        "how fast variances fall: above 1 few directions hold all, below 1 many hold noise",
        "Agrawal et al. 2022",
    ),
    "fill": Measure(
        fill, "bags", "higher", "coding rate between all alike (0) and evenly spread (1)",
        "Yu et al. 2020",
    ),
    "uniformity": Measure(
        uniformity, "bags", "lower", "how evenly images lie: 0 is collapse, near -4 the best",
        "Wang & Isola 2020",
    ),
    "alignment": Measure(
        alignment, "views", "lower", "square distance of two patches of an image; 0 is all alike",
        "Wang & Isola 2020",
    ),
    "lidar": Measure(
        lidar, "views", "higher", "directions by which images differ and their patches do not",
        "Thilak et al. 2023",
    ),
    "separation": Measure(
        separation, "views", "higher", "how much further apart images are than patches of one; 0 "
        "is collapse", "Fukunaga 1990",
    ),
    "rotation": Measure(
        rotation, "turns", "higher", "% of turned images whose turn a linear probe tells; 25 is "
        "chance", "Gidaris et al. 2018; Reed et al. 2021",
    ),
}  # fmt: skip
