"""What tests of measures share."""

import pytest

from hf_repgeo.measures.kernels.switch import FAMILIES, kernels


@pytest.fixture(params=FAMILIES)
def either_kernels(request):
    """Runs the test twice: on the fast paths, and in plain PyTorch."""
    with kernels(request.param):
        yield request.param
