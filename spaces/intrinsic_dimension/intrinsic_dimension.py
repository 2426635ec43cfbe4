"""`evaluate.load("spaces/intrinsic_dimension")`, on the Hub `evaluate.load("user/intrinsic_dimension")`."""

# evaluate takes the first measurement class it finds here, and says "pip install hf_repgeo" where that is missing
from hf_repgeo.evaluation.intrinsic_dimension import IntrinsicDimension

__all__ = ["IntrinsicDimension"]
