"""Values with one fold left out, which standard errors rest on, against the rows without it."""

import pytest
import torch

from hf_repgeo.measures import Moments, PointCloud, anisotropy, mean_cosine
from hf_repgeo.measures.eigen import fold_spectra


@pytest.fixture
def cloud(generator):
    rows = torch.randn(90, 6, generator=generator, dtype=torch.float64) * torch.tensor([4.0, 2, 1, 1, 1, 1])
    return PointCloud(rows + torch.arange(6), groups=torch.arange(90) // 9)  # ten groups: folds hold nine rows


def without(cloud, fold):
    return cloud.rows[cloud.folds != fold]


def test_mean_cosine_without_a_fold_is_that_of_the_other_rows(cloud):
    found = mean_cosine(cloud).left_out
    for fold, value in enumerate(found):
        unit = torch.nn.functional.normalize(without(cloud, fold))
        products = unit @ unit.T
        assert float(value) == pytest.approx(float(products.sum() - products.trace()) / (len(unit) * (len(unit) - 1)))


def test_anisotropy_without_a_fold_is_that_of_the_other_rows_along_the_whole_clouds_direction(cloud):
    centred = cloud.rows - cloud.rows.mean(0)
    leading = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -1]
    found = anisotropy(cloud).left_out
    for fold, value in enumerate(found):
        rest = without(cloud, fold)
        rest = rest - rest.mean(0)
        assert float(value) == pytest.approx(float((rest @ leading).square().sum() / rest.square().sum()), rel=1e-6)


def test_eigenvalues_without_a_fold_are_variances_of_the_other_rows_along_the_eigenvectors(cloud):
    centred = cloud.rows - cloud.rows.mean(0)
    vectors = torch.linalg.eigh(centred.T @ centred).eigenvectors  # ascending, as the folds
    for fold, values in enumerate(cloud.fold_spectra):
        expected = (without(cloud, fold) @ vectors).var(0, correction=0)
        assert torch.allclose(values, expected, rtol=1e-4)


def test_rows_of_no_fold_are_no_part_of_the_cloud(generator):
    coordinates = torch.randn(40, 3, generator=generator)
    folds = torch.arange(40) % 5 - 1
    found = fold_spectra(folds, coordinates.split(16))
    alone = fold_spectra(folds[folds >= 0], [coordinates[folds >= 0]])
    assert torch.allclose(found, alone)


def test_rows_of_zeros_are_counted_when_moments_are_merged_and_taken_apart():
    some, others = torch.eye(3), torch.cat([torch.zeros(2, 3), torch.ones(2, 3)])
    whole = Moments.of(some) + Moments.of(others)
    assert whole.zeros == 2 and (whole - Moments.of(others)).zeros == 0
