"""GeometryReport: the table of measured numbers with its doors: the terminal, the Hub."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import RepgeoError
from .hub.push import Pushed, find_report, push_report
from .plots import plot_layers, plot_training
from .report_table import ReportTable
from .report_text import describe, has_steps

if TYPE_CHECKING:
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
            options: `to`, `results_dataset`, `private`, `create_pr` ... as there.
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
