"""Are standard errors right? Compares the scatter over independent draws with the mean reported error.

    python benchmarks/standard_errors.py                                    # clouds whose law is known
    python benchmarks/standard_errors.py --text wikitext-2/train.txt MODEL LAYER [MODEL LAYER ...]   # real rows

A draw is a new sample: rows of a cloud, or documents of the text, disjoint from one draw to the next; all tokens of a
document are one group. A ratio of 1 is right; above 1 the reported error is too small. The 95 % interval is the value
plus or minus its error times the quantile of Student's t with one degree of freedom less than there are groups; its
coverage is the share of draws whose interval contains the mean over draws. Rows of a model are extracted once and kept
in benchmarks/.work. Each mode replaces its own part of results/standard_errors.md.
"""

import argparse
import datetime
import os
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import torch  # noqa: E402
from compare import processor  # noqa: E402

from hf_repgeo.measures import PointCloud, evaluate_all, resolve  # noqa: E402
from hf_repgeo.measures.student import tail  # noqa: E402
from hf_repgeo.rows.models import load_model  # noqa: E402
from hf_repgeo.rows.texts import corpus_of  # noqa: E402

HERE = Path(__file__).parent
PARTS = ("<!-- clouds -->", "<!-- documents -->")
MEASURES = [
    "anisotropy",
    "effective_rank",
    "participation_ratio",
    "iso_score",
    "mean_cosine",
    "intrinsic_dimension",
    "gride",
    "patchiness:lloyd",
]
RIGHT = (0.8, 1.25)
Draw = tuple[torch.Tensor, torch.Tensor | None]  # rows, groups


# --- samples ----------------------------------------------------------------------------------------------------------


def _decay(d: int) -> torch.Tensor:
    return torch.arange(1, d + 1) ** -0.5


def gaussian(n: int, d: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(n, d, generator=generator) * _decay(d) + 0.3


def mixture(n: int, d: int, generator: torch.Generator) -> torch.Tensor:
    """30 clusters, each a third as wide as the spread of the centres, which are the same in every draw."""
    fixed = torch.Generator().manual_seed(0)
    middles, shares = torch.randn(30, d, generator=fixed), torch.rand(30, generator=fixed)
    members = torch.multinomial(shares, n, True, generator=generator)
    return middles[members] + torch.randn(n, d, generator=generator) / 3


def ten_directions(n: int, d: int, generator: torch.Generator) -> torch.Tensor:
    """A uniform 10-cube, carried into d columns without a preferred direction."""
    frame = torch.linalg.qr(torch.randn(d, 10, generator=torch.Generator().manual_seed(0))).Q
    return torch.rand(n, 10, generator=generator) @ frame.T


def heavy_tails(n: int, d: int, generator: torch.Generator) -> torch.Tensor:
    """Student's t with 3 degrees of freedom in every column."""
    chi = torch.randn(n, d, 3, generator=generator).square().sum(2)
    return torch.randn(n, d, generator=generator) / (chi / 3).sqrt() * _decay(d)


CLOUDS = {"Gaussian": gaussian, "30 clusters": mixture, "10-cube": ten_directions, "Student t3": heavy_tails}


def cloud_draws(name: str, n: int, d: int, draws: int) -> Iterator[Draw]:
    for seed in range(draws):
        yield CLOUDS[name](n, d, torch.Generator().manual_seed(seed + 1)), None


def document_draws(model: str, layer: int, text: Path, tokens: int, documents: int, most: int) -> Iterator[Draw]:
    rows = document_rows(model, layer, text, tokens, most)
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]  # neighbours may share a topic
    for part in rows.split(documents):
        if len(part) == documents:
            yield part.flatten(0, 1), torch.arange(documents).repeat_interleave(tokens)


def document_rows(model: str, layer: int, text: Path, tokens: int, most: int) -> torch.Tensor:
    """`(documents, tokens, hidden_size)`: the first tokens of each long document at one layer; kept on disk."""
    path = HERE / ".work" / "rows" / f"{Path(model.removeprefix('pip:')).name}-{layer}-{tokens}-{most}.pt"
    if path.exists():
        return torch.load(path)
    loaded = load_model(model, dtype="float32", device="cpu")
    texts = [text for text in corpus_of(str(text)).documents if len(text) > 1200]
    found = []
    for text in texts[:: max(1, len(texts) // most)][:most]:
        ids = torch.tensor([loaded.tokenizer(text)["input_ids"][: tokens + 1]])
        if ids.shape[1] == tokens + 1:
            with torch.no_grad():
                states = loaded.model(input_ids=ids, output_hidden_states=True).hidden_states
            found.append(states[layer][0, 1:].clone())
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(torch.stack(found), path)
    return torch.stack(found)


# --- calibration ------------------------------------------------------------------------------------------------------


def calibration(draws: Iterator[Draw]) -> dict[str, tuple]:
    """For each measure: true scatter over mean reported error, coverage of the 95 % intervals, kind of the error."""
    found: dict[str, list] = {}
    for rows, groups in draws:
        cloud = PointCloud(rows, groups=groups)
        for estimate in evaluate_all(cloud, resolve(MEASURES)):
            freedom = min(20, len(torch.unique(cloud.groups))) - 1
            found.setdefault(f"{estimate.measure}:{estimate.convention}", []).append((estimate, freedom))
    return {name: _ratio([e for e, _ in ones], ones[0][1]) for name, ones in found.items()}


def _ratio(estimates: list, freedom: int) -> tuple[float | None, float | None, str]:
    """Ratio, coverage, and the kind of the error in most draws; no ratio if most draws have no error."""
    values = [e.value for e in estimates if e.value is not None]
    with_error = [e for e in estimates if e.standard_error]
    if len(with_error) < len(estimates) / 2:
        return None, None, ""
    mean, quantile = fmean(values), tail(0.95, freedom)
    held = [abs(e.value - mean) <= quantile * e.standard_error for e in with_error]
    bounds = [e.se_method.partition(", ")[2] for e in with_error]
    said = max(set(bounds), key=bounds.count)
    return stdev(values) / fmean(e.standard_error for e in with_error), fmean(held), said


def table(columns: dict[str, dict]) -> str:
    text = "| | " + " | ".join(columns) + " |\n| --- |" + " ---: |" * len(columns) + "\n"
    for name in next(iter(columns.values())):
        text += f"| `{name}` | " + " | ".join(_cell(*column[name]) for column in columns.values()) + " |\n"
    return text


def _cell(ratio: float | None, coverage: float | None, said: str) -> str:
    if ratio is None:
        return "withheld"
    shown = f"{ratio:.2f} ({coverage:.0%})"
    if said:
        return f"{shown}, {said}"
    return shown if RIGHT[0] <= ratio <= RIGHT[1] else f"**{shown}**"


def clouds_part(options: argparse.Namespace) -> str:
    columns = {}
    for name in CLOUDS:
        columns[name] = calibration(cloud_draws(name, options.n, options.d, options.draws))
        print(table({name: columns[name]}), flush=True)
    said = f"{options.draws} draws of {options.n} rows, {options.d} columns, every row a group of its own."
    return f"## Clouds\n\n{stamp('')}\n{said}\n\n{table(columns)}"


def documents_part(options: argparse.Namespace) -> str:
    columns, text = {}, options.text
    for model, layer in zip(options.models[::2], options.models[1::2], strict=True):
        draws = list(document_draws(model, int(layer), text, options.tokens, options.documents, options.most))
        title = f"{Path(model.removeprefix('pip:')).name}, layer {layer} ({len(draws)} draws)"
        columns[title] = calibration(iter(draws))
        print(table({title: columns[title]}), flush=True)
    said = f"A draw: the first {options.tokens} tokens of {options.documents} documents."
    return f"## Documents\n\n{stamp(f' --text {text.parent.name}/{text.name} ...')}\n{said}\n\n{table(columns)}"


def stamp(option: str) -> str:
    return f"`python benchmarks/standard_errors.py{option}`, {datetime.date.today()}, {processor()}."


def write(path: Path, part: int, text: str) -> None:
    """Put a part into the file and leave the other as it is."""
    head = "# Standard errors: true scatter / mean reported error (coverage of 95 % intervals)\n\n"
    head += f"Bold: outside {RIGHT[0]} to {RIGHT[1]}. Bounds are what the errors call themselves. Withheld: no error,\n"
    head += "and a warning says why.\n\n"
    before = path.read_text() if path.exists() else head + "\n\n".join(PARTS) + "\n"
    start, mark, rest = before.partition(PARTS[part])
    tail_of_file = "".join(rest.partition(PARTS[1])[1:]) if part == 0 else ""
    path.write_text(f"{start}{mark}\n\n{text}\n{tail_of_file}".rstrip() + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="model and layer, in turn")
    parser.add_argument("--text", type=Path, help="a file of many documents")
    parser.add_argument("--n", type=int, default=4096)
    parser.add_argument("--d", type=int, default=64)
    parser.add_argument("--draws", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=86, help="of each document")
    parser.add_argument("--documents", type=int, default=24, help="of a draw")
    parser.add_argument("--most", type=int, default=600, help="documents to extract")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "standard_errors.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    write(options.out, bool(options.models), (documents_part if options.models else clouds_part)(options))


if __name__ == "__main__":
    main()
