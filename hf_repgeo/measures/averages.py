"""The value of a layer is the mean over batches; its error is about other documents, not another shuffle of these.

Batches hold rows of the same documents, so they agree far better with each other than with new documents. So the
jackknife leaves out a group of documents in all batches at once: the folds are common to the batches, the mean over
batches of the values without a fold is the mean's value without it, and their spread over the folds gives its error.
"""

from __future__ import annotations

from math import sqrt
from statistics import fmean, stdev
from typing import Any

import torch

from .estimate import Estimate, jackknife
from .nulls import chance_of_mean


def columns_of(estimate: Estimate) -> dict:
    """A report's columns for one estimate over all rows."""
    return {
        "measure": estimate.measure,
        "convention": estimate.convention,
        "protocol": "whole",
        "value": estimate.value,
        "sd": None,
        "se": estimate.standard_error,
        "se_method": estimate.se_method,
        "n_batches": 1,
        "warnings": estimate.warnings,
        "details": estimate.details,
    }


def average(estimates: tuple[Estimate, ...]) -> dict:
    """A report's columns for the mean over batches; one batch keeps its own standard error.

    A value that is missing in any batch is missing in the mean.
    """
    if len(estimates) == 1:
        return columns_of(estimates[0]) | {"protocol": "batches"}
    values = [estimate.value for estimate in estimates if estimate.value is not None]
    whole = len(values) == len(estimates)
    error, method = error_of_mean(estimates) if whole else (None, None)
    lost = next((estimate for estimate in estimates if estimate.value is None), estimates[0])
    return columns_of(lost) | {
        "protocol": "batches",
        "value": fmean(values) if whole else None,
        "sd": stdev(values) if whole else None,
        "se": error,
        "se_method": method,
        "n_batches": len(estimates),
        "warnings": tuple(dict.fromkeys(warning for estimate in [lost, *estimates] for warning in estimate.warnings)),
        "details": _mean_details(estimates) | (chance_of_mean(estimates) if whole else {}),
    }


def error_of_mean(estimates: tuple[Estimate, ...]) -> tuple[float | None, str | None]:
    """Standard error of the mean over batches whose folds hold the same documents, and its method.

    Each batch's deviations are scaled to its own standard error first, which corrects the plain jackknife for what
    that leaves out. Errors by likelihood belong to rows without groups, in batches independent of each other. `None` if
    a batch has no error.
    """
    errors = [estimate.standard_error for estimate in estimates if estimate.standard_error is not None]
    if len(errors) < len(estimates):
        return None, None
    if any(estimate.left_out is None for estimate in estimates):
        alone = all(estimate.se_method == "likelihood" for estimate in estimates)
        total = sqrt(sum(error**2 for error in errors)) / len(errors)
        return (total, f"likelihood, {len(errors)} batches") if alone else (None, None)
    error, method = jackknife(torch.stack([scaled_deviations(estimate) for estimate in estimates]).mean(0))
    methods = [estimate.se_method or "" for estimate in estimates]
    bounds = [bound for bound in ("lower bound", "upper bound", "rough") if any(bound in said for said in methods)]
    return error, ", ".join([f"{method} of {len(errors)} batches", *bounds[:1]]) if method else None


def scaled_deviations(estimate: Estimate) -> torch.Tensor:
    """The jackknife's deviations, `(folds,)`, whose spread is the standard error as reported."""
    assert estimate.left_out is not None and estimate.standard_error is not None
    deviations = estimate.left_out.to("cpu", torch.float64)
    deviations = deviations - deviations.mean()
    plain, _ = jackknife(deviations)
    return deviations * (estimate.standard_error / plain) if plain else deviations


def _mean_details(estimates: tuple[Estimate, ...]) -> dict:
    """Numbers averaged over batches; texts only if all batches agree. `chance_of_mean` averages the chance levels."""
    details: dict[str, Any] = {}
    for key, first in estimates[0].details.items():
        values: list[Any] = [estimate.details.get(key) for estimate in estimates]
        if key.partition("_")[0] in ("null", "z", "p"):
            continue
        if all(isinstance(value, (int, float)) for value in values):
            details[key] = fmean(values)
        elif all(value == first for value in values):
            details[key] = first
    return details
