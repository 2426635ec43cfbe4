"""Products in low precision are what they say they are."""

import pytest
import torch

from hf_repgeo.measures.kernels.products import bfloat16_is_fast, bfloat16_products, times_transposed


@pytest.mark.skipif(not bfloat16_is_fast(), reason="no fast products of bfloat16 here")
def test_bfloat16_products_round_their_factors_only_inside():
    a, b = torch.randn(2, 40, 300, generator=torch.Generator().manual_seed(0))
    exact, rounded = (x.double() @ y.double().T for x, y in ((a, b), (a.bfloat16(), b.bfloat16())))
    with bfloat16_products():
        inside = times_transposed(a, b).double()
    assert float((inside - rounded).abs().max()) < 1e-4 < 1e-2 < float((inside - exact).abs().max())
    assert float((times_transposed(a, b).double() - exact).abs().max()) < 1e-4
