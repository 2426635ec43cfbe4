"""What the tabs of a page share: its style, its state in the address, errors as sentences, the code of a view."""

from __future__ import annotations

import functools
import inspect
import json
import logging
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..errors import MissingExtra, RepgeoError
from ..measures import MEASURES
from ..plots import DEFAULT_PANELS
from ..writing import write_whole
from .figures import PAGE_CSS

try:
    import gradio as gr
except ImportError:
    raise MissingExtra("gradio", "spaces", "The app of a Space") from None

logger = logging.getLogger(__name__)

CSS = (
    PAGE_CSS
    + """
.gradio-container {--block-info-text-color: #5a5a66}
.gradio-container {max-width: min(1180px, 100%) !important; width: 100% !important; margin: auto}
.dark .gradio-container, .dark.gradio-container, .dark {--block-info-text-color: #b0b0bd !important}
.finding p {font-size: 1.12rem; line-height: 1.5}
.js-plotly-plot {max-width: calc(100vw - 66px); overflow: hidden}
.status p {margin: 0; min-height: 1.5em}
footer, footer * {color: var(--body-text-color) !important; opacity: 0.9}
:is(button, a, input, textarea, [role=button]):focus-visible {
  outline: 3px solid var(--body-text-color) !important; outline-offset: 2px !important}
"""
)
# Messages go when the next button is pressed. Enter chooses like the space bar. Figures fit their place when a tab is
# opened; they get the role of an image and, as its text, what `meta` says.
HEAD = """
<script>
const fits = new ResizeObserver((entries) => {
  for (const {target} of entries) {
    const plot = target.querySelector('.js-plotly-plot');
    if (plot && plot.layout && target.clientWidth && window.Plotly) Plotly.Plots.resize(plot);
  }
});
new MutationObserver(() => {
  for (const plot of document.querySelectorAll('.js-plotly-plot')) {
    fits.observe(plot.parentElement);  // again and again: it is observed once
    const said = plot.layout && plot.layout.meta;
    if (said && plot.getAttribute('aria-label') !== said) {
      plot.setAttribute('role', 'img'); plot.setAttribute('aria-label', said);
    }
  }
}).observe(document.documentElement, {childList: true, subtree: true});
document.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && event.target.type === 'radio') event.target.click();
});
document.addEventListener('click', (event) => {  // what was wrong before is past
  if (!event.target.closest('button:not(.toast-close)')) return;
  document.querySelectorAll('.toast-close').forEach((button) => button.click());
});
</script>
"""
LOOK = {"css": CSS, "head": HEAD}


# --- errors ---------------------------------------------------------------------------------------------------------


def in_sentences(function: Callable) -> Callable:
    """Shows our errors on the page with their own sentence; of any other the page says only that it happened."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def steps(*arguments):
            try:
                yield from function(*arguments)
            except Exception as error:
                raise shown(error) from None

        return steps

    @functools.wraps(function)
    def answer(*arguments):
        try:
            return function(*arguments)
        except Exception as error:
            raise shown(error) from None

    return answer


def shown(error: Exception) -> gr.Error:
    """The error as a visitor sees it."""
    if isinstance(error, gr.Error):
        return error
    if isinstance(error, RepgeoError):
        return gr.Error(str(error), duration=20, print_exception=False)
    logger.error("unforeseen", exc_info=error)
    said = "Something went wrong here, not with your input. It is in the log of this Space."
    return gr.Error(said, duration=20, print_exception=False)


# --- state in the address -------------------------------------------------------------------------------------------


class Address:
    """Controls whose values are part of the page's address, so that a view can be bookmarked and shared.

    `add` takes a control and `answer` a view's function; `attach` makes the address follow the controls, and the views
    follow an address that somebody opens. A value that a control does not offer is ignored.
    """

    def __init__(self) -> None:
        self._controls: dict[str, Any] = {}
        self._allowed: dict[str, Callable[[str], Any]] = {}
        self._answers: list[tuple[Callable, list, list]] = []

    def add(self, name: str, control: Any, allowed: Iterable[Any] | Callable[[str], Any]) -> Any:
        """Returns the control; `allowed`: its values, or a function that reads one and raises `ValueError`."""
        self._controls[name] = control
        self._allowed[name] = allowed if callable(allowed) else _one_of(list(allowed))
        return control

    def answer(self, controls: list, function: Callable, inputs: list, outputs: list, **settings: Any) -> None:
        """`function` fills `outputs` when a visitor moves a control, and when an opened address has set some inputs.

        An address sets several controls at once. If each of them started an event, an older answer could arrive last
        and stay. So only a visitor's input starts events, and `attach` asks once for the whole address.
        """
        gr.on([control.input for control in controls], in_sentences(function), inputs, outputs, **settings)
        self._answers.append((function, inputs, outputs))

    def read(self, query: dict[str, str]) -> dict[str, Any]:
        """The values that an address gives to the controls."""
        found = {}
        for name, text in query.items():
            try:
                found[name] = self._allowed[name](text)
            except (KeyError, ValueError):
                continue
        return found

    def attach(self, demo: gr.Blocks, tabs: gr.Tabs, tab: gr.Textbox, share: gr.Button, link: gr.Textbox) -> None:
        """Wires everything up; `tab` holds the name of the open one."""
        controls = list(self._controls.values())
        plain = [str(control.value).lower() for control in controls]
        write = _WRITE % (json.dumps(list(self._controls)), json.dumps(plain))
        gr.on([c.change for c in controls], None, controls, None, js=write, api_visibility="private", queue=False)
        share.click(None, controls, link, js=write, api_visibility="private", queue=False)
        share.click(lambda: gr.Textbox(visible=True), None, link, api_visibility="private", queue=False)

        filled = [output for _, _, outputs in self._answers for output in outputs]

        def restore(request: gr.Request) -> list:
            known = self.read(dict(request.query_params))
            opened = gr.Tabs(selected=known["tab"]) if "tab" in known else gr.skip()
            return [opened, *(known.get(name, gr.skip()) for name in self._controls), *self._answered(known)]

        quiet: dict[str, Any] = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}
        demo.load(restore, None, [tabs, *controls, *filled], **quiet)

    def _answered(self, known: dict[str, Any]) -> list:
        """The outputs of every view for the values in an address; a view without any stays as it is."""
        given = {id(self._controls[name]): value for name, value in known.items()}
        values: list[Any] = []
        for function, inputs, outputs in self._answers:
            stays: list[Any] = [gr.skip()] * len(outputs)
            if any(id(control) in given for control in inputs):
                try:
                    stays = list(function(*(given.get(id(control), control.value) for control in inputs)))
                except RepgeoError:  # values that do not go together
                    pass
            values += stays
        return values


_WRITE = """(...values) => {
  const names = %s, plain = %s, query = new URLSearchParams();  // what differs from the page as it opens
  names.forEach((name, place) => {
    const value = String(values[place] ?? '');
    if (value !== '' && value.toLowerCase() !== plain[place]) query.set(name, value);
  });
  const address = location.origin + location.pathname + ([...query].length ? '?' + query : '');
  history.replaceState(null, '', address);
  if (navigator.clipboard && document.activeElement && document.activeElement.id === 'share')
    navigator.clipboard.writeText(address).catch(() => {});
  return address;
}"""


def _one_of(values: list[Any]) -> Callable[[str], Any]:
    known = {str(value).lower(): value for value in values}  # JavaScript's true is Python's True

    def read(text: str) -> Any:
        return known[text.lower()]

    return read


def whole(low: int, high: int) -> Callable[[str], int]:
    """Reads an integer within bounds."""

    def read(text: str) -> int:
        if not low <= int(text) <= high:
            raise ValueError(text)
        return int(text)

    return read


# --- parts of a tab -------------------------------------------------------------------------------------------------


def plots_in_pairs(figures: list[Any]) -> list[gr.Plot]:
    """A plot for each default panel, two in a row, under its name and what larger values mean."""
    plots = []
    for start in range(0, len(DEFAULT_PANELS), 2):
        with gr.Row():
            for measure, figure in list(zip(DEFAULT_PANELS, figures))[start : start + 2]:
                with gr.Column(min_width=320):
                    gr.Markdown(f"**{measure.replace('_', ' ').capitalize()}**: {MEASURES[measure].direction}.")
                    plots.append(gr.Plot(figure, show_label=False))
    return plots


def code_block(code: str, title: str = "The code that made this") -> gr.Code:
    """A closed panel with Python."""
    with gr.Accordion(title, open=False):
        return gr.Code(code, language="python", label="Python", interactive=False, wrap_lines=True)


def files_for(contents: dict[str, str | bytes], folder: str | Path) -> list[str]:
    """Files for downloading, in a new folder inside `folder`."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    own = Path(tempfile.mkdtemp(dir=folder))
    places = []
    for name, content in contents.items():
        safe = "".join(c if c.isalnum() or c in "-._" else "-" for c in name)
        place = own / safe
        places.append(str(write_whole(place, content)))
    return places


def described(figure: Any, words: str) -> Any:
    """The figure with alternative text for readers who cannot see it."""
    figure.update_layout(meta=words)
    return figure
