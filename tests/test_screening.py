"""Screening in 8-bit integers: what it leaves out is as far as it says."""

import pytest
import torch

from hf_repgeo.measures.products import PackedDigits, packing_works
from hf_repgeo.measures.screening import DigitPoints, screen

needs_digits = pytest.mark.skipif(not packing_works(), reason="no fast products of 8-bit integers here")


@needs_digits
def test_packed_products_are_sums_of_integers():
    generator = torch.Generator().manual_seed(0)
    left = torch.randint(0, 256, (33, 70), generator=generator).to(torch.uint8)
    digits = torch.randint(-127, 128, (20, 70), generator=generator).to(torch.int8)
    found = PackedDigits.of(digits, torch.full((20,), 2.0)).times(left, 0.5, torch.ones(20))
    assert torch.equal(found, (left.float() - 128) @ digits.float().T + 1)


@needs_digits
@pytest.mark.parametrize("massive", [1.0, 300.0])
def test_no_row_outside_the_candidates_is_within_reach(massive):
    rows = torch.randn(1100, 40, generator=torch.Generator().manual_seed(1))
    rows[::100] *= massive
    points = DigitPoints.of(rows, 2)
    values, others, bound = screen(points)
    distances = torch.cdist(rows.double(), rows.double(), compute_mode="donot_use_mm_for_euclid_dist")
    distances.fill_diagonal_(torch.inf)
    for kept in (2, 6, 16):
        left_out = distances.scatter(1, others[:, :kept], torch.inf).amin(1)
        lowest = values[:, kept] if kept < 16 else bound
        reach = points.reach(lowest[:, None])[:, 0]
        assert bool((reach <= left_out).all())
        assert float((reach / left_out).median()) > 0.9
