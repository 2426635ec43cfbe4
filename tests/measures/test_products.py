"""Products in low precision are what they say they are."""

import pytest
import torch

from hf_repgeo.measures.kernels.products import (
    PackedDigits,
    bfloat16_is_fast,
    bfloat16_products,
    packing_works,
    times_transposed,
)

needs_digits = pytest.mark.skipif(not packing_works(), reason="no fast products of 8-bit integers here")


@needs_digits
def test_packed_products_are_sums_of_integers():
    generator = torch.Generator().manual_seed(0)
    left = torch.randint(0, 256, (33, 70), generator=generator).to(torch.uint8)
    digits = torch.randint(-127, 128, (20, 70), generator=generator).to(torch.int8)
    found = PackedDigits.of(digits, torch.full((20,), 2.0)).times(left, 0.5, torch.ones(20))
    assert torch.equal(found, (left.float() - 128) @ digits.float().T + 1)


@pytest.mark.skipif(not bfloat16_is_fast(), reason="no fast products of bfloat16 here")
def test_bfloat16_products_round_their_factors_only_inside():
    a, b = torch.randn(2, 40, 300, generator=torch.Generator().manual_seed(0))
    exact, rounded = (x.double() @ y.double().T for x, y in ((a, b), (a.bfloat16(), b.bfloat16())))
    with bfloat16_products():
        inside = times_transposed(a, b).double()
    assert float((inside - rounded).abs().max()) < 1e-4 < 1e-2 < float((inside - exact).abs().max())
    assert float((times_transposed(a, b).double() - exact).abs().max()) < 1e-4
