"""`evaluate.load("spaces/anisotropy")`, on the Hub `evaluate.load("user/anisotropy")`."""

# evaluate takes the first measurement class it finds here, and says "pip install hf_repgeo" where that is missing
from hf_repgeo.evaluation.anisotropy import Anisotropy

__all__ = ["Anisotropy"]
