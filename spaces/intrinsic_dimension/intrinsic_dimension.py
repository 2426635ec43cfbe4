"""`evaluate.load("spaces/intrinsic_dimension")`, on the Hub `evaluate.load("user/intrinsic_dimension")`."""

import importlib

# Imported by name: evaluate reads plain imports, and for a missing package would advise to install it from PyPI.
try:
    IntrinsicDimension = importlib.import_module("hf_repgeo.evaluation.intrinsic_dimension").IntrinsicDimension
except ModuleNotFoundError as error:
    raise ImportError(
        "This measurement needs the package hf_repgeo, which is the folder hf_repgeo/ of this Space: clone the Space "
        "(git clone https://huggingface.co/spaces/OWNER/NAME) and put the clone on PYTHONPATH, or install a wheel."
    ) from error

__all__ = ["IntrinsicDimension"]
