"""The axis names that public signatures use, and what they count.

view      patches (or other crops) of one image; always the first axis
target    views that there are targets of, the leading ones
batch     images
dim       coordinates of a projection z
feature   coordinates of an embedding h
height, width, side   pixels; `side` where the two are equal
sample    rows of a data set of embeddings
"""

from typing import Literal

from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

MOST_SIDE = 4096  # of an image or a view: one of them is 48 MiB of pixels, 192 as float32
MOST_PATCHES, MOST_BATCH = 100_000, 1_000_000  # of an image, and images: views can be counted

Images = UInt8[Tensor, "batch 3 height width"]
Views = Float[Tensor, "view batch 3 side side"]
Projections = Float[Tensor, "view batch dim"]
Targets = Float[Tensor, "target batch dim"]
Embeddings = Float[Tensor, "sample feature"]
Labels = Int64[Tensor, " sample"]
BatchLabels = Int64[Tensor, " batch"]
Valid = Bool[Tensor, " batch"]
Scalar = Float[Tensor, ""]


ContentHashes = Int64[Tensor, "hashed 2"]


Split = Literal["train", "test", "all"]
# By what the program divides: what is the same wherever the data lie; or, as in runs of versions
# before, by names that hold the file's own or that of a folder around the classes.
Division = Literal["stable", "by_name"]
