"""`evaluate.load("spaces/patchiness")`, on the Hub `evaluate.load("user/patchiness")`."""

# evaluate takes the first measurement class it finds here, and says "pip install hf_repgeo" where that is missing
from hf_repgeo.evaluation.patchiness import Patchiness

__all__ = ["Patchiness"]
