"""What localisation says of little: few rows, no spread, empty places of a figure; and of more rows than it holds."""

from dataclasses import replace

import pytest
import torch

import hf_repgeo.localization as room
from hf_repgeo.localization import verdict
from hf_repgeo.localization.transfer import _permuted_spearman
from hf_repgeo.localization.verdict import Interval, Where, _drawn, _neighbourly, _tile_index, _verdict
from hf_repgeo.localization.where_report import plot_where, where_report

SURE = Interval(0.9, 0.85, 0.95)
UNPLACED = Where("placed", 100, 100, 2, SURE, 0.5, 0.01)


def test_more_rows_than_are_held_are_drawn_in_whole_groups(monkeypatch):
    monkeypatch.setattr(verdict, "MOST_ROWS", 50)
    rows, groups = torch.arange(200.0)[:, None], [i // 8 for i in range(200)]
    kept, labels, names = _drawn(rows, {"parity": [i % 2 for i in range(200)]}, groups, seed=0)
    assert len(kept) == 48 and all(names.count(name) == 8 for name in set(names))
    assert labels["parity"] == [int(row) % 2 for row in kept[:, 0]]
    assert names == [groups[int(row)] for row in kept[:, 0]]
    alone, _, each = _drawn(rows, {"parity": [0] * 200}, None, seed=0)
    assert len(alone) == len(set(each)) == 50


def test_without_chance_or_without_its_neighbours_nothing_is_neighbourly():
    nothing, regions = torch.zeros(6, dtype=torch.float64), torch.eye(6, dtype=torch.bool)
    assert _tile_index(nothing, regions, 5, torch.Generator().manual_seed(0)) is None
    assert _permuted_spearman(torch.ones(5).double(), torch.arange(5.0).double(), 10) == []
    assert not _neighbourly(UNPLACED) and _verdict(UNPLACED, few=3, alpha=0.05) == "cannot tell"
    assert _verdict(replace(UNPLACED, p_present=0.2), few=3, alpha=0.05) == "absent"


def test_names_that_the_room_does_not_have_are_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'nowhere'"):
        room.nowhere
    assert set(room.__all__) <= set(dir(room))


def test_instances_without_a_choice_have_a_column_of_their_own():
    from hf_repgeo.sparse_vae.scoring import NO_CHOICE, Selection

    confusion = {"a": {"a": 3, NO_CHOICE: 2}, "b": {"a": 1, "b": 4}}
    figure = room.plot_confusion(Selection(0.7, 0.5, None, {}, {}, confusion))
    [image] = figure.axes[0].get_images()
    assert image.get_array().tolist() == [[3, 0, 2], [1, 4, 0]]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["a", "b", NO_CHOICE]


def test_five_properties_fill_two_lines_of_places_and_those_without_a_curve_have_no_legend():
    absent = Where("absent", 100, 100, 2, Interval(0.51, 0.48, 0.55), 0.5, 0.4)
    figure = plot_where(where_report({f"property {i}": absent for i in range(5)}))
    assert [axis.axison for axis in figure.axes] == [True] * 5 + [False] * 3 and not figure.legends
