"""A small GPT and a small BERT from scratch on a small corpus, measured by GeometryCallback while they train.

    python benchmarks/experiments/training_dynamics.py wikitext-2 --model gpt --seed 0 --out runs/dynamics
    python benchmarks/experiments/training_dynamics.py wikitext-2 --model bert --steps 2000 --out runs/dynamics

`wikitext-2` is a folder with train.txt and valid.txt, or one text file, whose last tenth of documents is held out. 4
layers of 128, a byte-level BPE of 2,048 tokens, windows of 64, 1,024 tokens per step. Leaves geometry.json (every
layer, three token policies) and log.json (losses) in one folder per run. A finished run is not repeated; an interrupted
one resumes from its last checkpoint. docs/dynamics.md has the results.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

from hf_repgeo import GeometryCallback, read_text

LAYERS, WIDTH, WINDOW, BATCH, VOCABULARY = 4, 128, 64, 16, 2048
ROWS = 4096


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", choices=["gpt", "bert"], required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--masked", type=float, default=0.15, help="share of masked tokens (bert)")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def make_tokenizer(documents: list[str]) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<pad>", "<mask>"], initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", mask_token="<mask>")


def corpus(place: Path) -> tuple[list[str], list[str]]:
    """Documents to train on, and documents held out."""
    if place.is_dir():
        return tuple(read_text(place / f"{part}.txt", "wikitext").documents for part in ("train", "valid"))
    documents = read_text(place).documents
    return documents[: -len(documents) // 10], documents[-len(documents) // 10 :]


def windows(tokenizer, documents: list[str]) -> torch.Tensor:
    """`(n, WINDOW)` token ids; documents run on."""
    ids = [i for row in tokenizer([text + "\n" for text in documents], verbose=False)["input_ids"] for i in row]
    return torch.tensor(ids[: len(ids) // WINDOW * WINDOW]).view(-1, WINDOW)


def make_model(kind: str):
    if kind == "gpt":
        config = GPT2Config(
            vocab_size=VOCABULARY, n_positions=WINDOW, n_embd=WIDTH, n_layer=LAYERS, n_head=4,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        return GPT2LMHeadModel(config)
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4,
        intermediate_size=4 * WIDTH, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        max_position_embeddings=WINDOW, pad_token_id=0,
    )  # fmt: skip
    return BertForMaskedLM(config)


def main() -> None:
    asked = arguments()
    folder = asked.out / f"{asked.model}-{asked.seed}"
    if (folder / "log.json").is_file():
        return
    train, valid = corpus(asked.data)
    tokenizer = make_tokenizer(train)
    held_out = windows(tokenizer, valid)
    sample = held_out[: ROWS // WINDOW]
    settings = TrainingArguments(
        str(folder), seed=asked.seed, max_steps=asked.steps, per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=64, learning_rate=asked.learning_rate, warmup_steps=100, weight_decay=0.01,
        lr_scheduler_type="cosine_with_min_lr", lr_scheduler_kwargs={"min_lr_rate": 0.1}, logging_steps=50,
        eval_strategy="steps", eval_steps=500, eval_on_start=True, save_strategy="steps", save_steps=100,
        save_total_limit=1, report_to="none", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    callback = GeometryCallback(
        {"input_ids": sample, "attention_mask": torch.ones_like(sample)},
        measures=["anisotropy", "intrinsic_dimension", "effective_rank", "mean_cosine"],
        tokens=["all", "sink_robust", "one_per_type"],
        layers=list(range(LAYERS + 1)),
        rows=ROWS,
        budget=None,
    )
    torch.random.manual_seed(asked.seed)
    trainer = Trainer(
        make_model(asked.model),
        settings,
        train_dataset=[{"input_ids": row} for row in windows(tokenizer, train)],
        eval_dataset=[{"input_ids": row} for row in held_out[sample.shape[0] : sample.shape[0] + 256]],
        processing_class=tokenizer,
        data_collator=DataCollatorForLanguageModeling(
            tokenizer, mlm=asked.model == "bert", mlm_probability=asked.masked
        ),
        callbacks=[callback],
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(folder) if folder.is_dir() else None)
    facts = vars(asked) | {"parameters": trainer.model.num_parameters(), "train_windows": len(trainer.train_dataset)}
    lines = [{k: v for k, v in line.items() if "geometry" not in k} for line in trainer.state.log_history]
    text = json.dumps({"settings": facts, "log": lines}, indent=1, default=str)
    (folder / "log.json").write_text(text)


if __name__ == "__main__":
    main()
