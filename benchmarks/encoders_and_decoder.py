"""The tables of docs/encoders-and-decoder.md from three reports.

python benchmarks/encoders_and_decoder.py minilm/profile.json mpnet/profile.json smollm2/profile.json > tables.md
"""

import sys

from hf_repgeo.report import GeometryReport

SHOWN = ("anisotropy", "intrinsic_dimension", "patchiness", "effective_rank")

# Measured independently of this package, in float64, on 16,384 tokens of the same text (32 windows of 512), with
# scikit-dimension's convention for TwoNN: anisotropy with all tokens in the first, the highest and the last layer, and
# the range of intrinsic dimension over layers above the embeddings.
INDEPENDENT = {
    "MiniLM": ((0.07, 0.11, 0.11), (5.0, 8.9)),
    "MPNet": ((0.07, 0.18, 0.18), (3.8, 7.7)),
    "SmolLM2": ((0.30, 0.99, 0.19), (3.4, 9.1)),
}


def by_layer(report: GeometryReport, measure: str, tokens: str) -> list[float | None]:
    return [report.value(measure, tokens=tokens, layer=layer) for layer in report.unique("layer")]


def layers(name: str, report: GeometryReport) -> str:
    heading = " | ".join(f"{measure.replace('_', ' ')} | robust" for measure in SHOWN)
    lines = [f"### {name}", "", f"| layer | {heading} | massive rows |", "| ---: |" + " ---: |" * (2 * len(SHOWN) + 1)]
    for layer in report.unique("layer"):
        part = report.select(layer=layer)
        cells = [f"{part.value(measure, tokens=t):.3g}" for measure in SHOWN for t in ("all", "sink_robust")]
        massive = part.value("massive_share", tokens="all")
        lines.append(f"| {layer} | {' | '.join(cells)} | {massive:.2%} |")
    return "\n".join(lines) + "\n"


def comparison(reports: dict[str, GeometryReport]) -> str:
    lines = ["| | anisotropy first / highest / last | independent | dimension above embeddings | independent |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for name, report in reports.items():
        a, d = (by_layer(report, measure, "all") for measure in ("anisotropy", "intrinsic_dimension"))
        (first, top, last), (low, high) = INDEPENDENT[name]
        ours = f"{a[0]:.2f} / {max(a):.2f} / {a[-1]:.2f} | {first:.2f} / {top:.2f} / {last:.2f}"
        lines.append(f"| {name} | {ours} | {min(d[1:]):.1f} to {max(d[1:]):.1f} | {low} to {high} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    reports = dict(zip(INDEPENDENT, map(GeometryReport.from_json, sys.argv[1:]), strict=True))
    print(comparison(reports))
    for name, report in reports.items():
        print(layers(name, report))


if __name__ == "__main__":
    main()
