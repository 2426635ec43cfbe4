"""A user's own sentences: every layout is read, bad files are named, a run ends in a report and a checkpoint."""

import json
import shutil

import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from tiny import make_tokenizer
from transformers import AutoModel

import hf_repgeo
from hf_repgeo.cli.main import main
from hf_repgeo.errors import BadInput, UnknownName
from hf_repgeo.localization.locating import _folder_names
from hf_repgeo.localization.own_pairs import property_pairs
from hf_repgeo.localization.own_sentences import read_sentences
from hf_repgeo.sparse_vae.configuration_sparse_vae import SparseVAEConfig
from hf_repgeo.sparse_vae.modeling_sparse_vae import SparseVAEForSentenceEmbedding

NOUNS, VERBS, ENDS = ["cat", "dog"], ["sees", "finds"], ["house", "river", "old", "new", "green", "the", "a"]
ROWS = [
    {"text": f"the {noun} {verb} {first} {second}", "noun": noun, "verb": verb, "group": f"{first}-{second}"}
    for noun in NOUNS
    for verb in VERBS
    for first in ENDS
    for second in ENDS
    if first != second
]


def written(path, separator, rows=ROWS):
    lines = [separator.join(rows[0]), *(separator.join(row.values()) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


# ---- reading


def test_every_layout_gives_the_same_sentences(tmp_path):
    wanted = read_sentences(Dataset.from_list(ROWS))
    assert wanted.labels["noun"][0] == "cat" and len(wanted.texts) == 168 and len(set(wanted.groups)) == 42
    json_lines = tmp_path / "s.jsonl"
    json_lines.write_text("\n".join(map(json.dumps, ROWS)))
    json_list = tmp_path / "s.json"
    json_list.write_text(json.dumps(ROWS))
    parquet = tmp_path / "s.parquet"
    Dataset.from_list(ROWS).to_parquet(parquet)
    tables = [
        written(tmp_path / f"s{i}{end}", sep)
        for i, (end, sep) in enumerate([(".csv", ","), (".csv", ";"), (".tsv", "\t")])
    ]
    for path in (*tables, json_lines, json_list, parquet):
        read = read_sentences(path)
        assert (read.texts, read.labels, read.groups) == (wanted.texts, wanted.labels, wanted.groups), path


def test_a_data_frame_is_read_and_its_nan_means_none():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": ["a", "b", "c"], "number": [1.0, None, 2.0], "kind": ["x", None, "y"]})
    assert read_sentences(frame).labels == {"number": ["1.0", None, "2.0"], "kind": ["x", None, "y"]}
    assert list(read_sentences(frame, "kind").labels) == ["kind"]
    with pytest.raises(BadInput, match="row 1: no group"):
        read_sentences(frame.rename(columns={"number": "group"}))


def test_columns_without_a_name_are_row_numbers_and_no_property(tmp_path):
    (tmp_path / "s.csv").write_text(",text,number\n0,a,s\n1,b,p\n")
    assert read_sentences(tmp_path / "s.csv").labels == {"number": ["s", "p"]}


def test_classes_have_their_names_and_numbers_of_arrays_are_plain():
    features = Features({"text": Value("string"), "mood": ClassLabel(names=["sad", "glad"])})
    data = Dataset.from_dict({"text": ["a", "b", "c"], "mood": [1, 0, -1]}, features=features)
    assert read_sentences(data).labels == {"mood": ["glad", "sad", None]}
    assert read_sentences({"text": ["a", "b"], "n": torch.tensor([1, 2])}).labels == {"n": ["1", "2"]}


def test_quotes_hold_separators_and_empty_cells_mean_none(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text('\ufefftext,number\n"a key, lost",s\nkeys,\n"a key, lost",s\n', encoding="utf-8")
    read = read_sentences(path)
    assert read.texts == ["a key, lost", "keys"] and read.labels == {"number": ["s", None]} and read.groups is None


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("s.csv", "text,number\na,s\nb,c,p\n", r"s.csv, line 3: 3 cells; wanted 2 cells.*separated by a comma"),
        ("s.csv", "text|number\na|s\n", r"s.csv, line 1: 'text\|number'; wanted a header.*a comma, a semicolon, a tab"),
        ("s.tsv", "text\tnumber\na\ts\n\ts\n", "s.tsv, line 3: no text"),
        ("s.csv", "text,number\na,s\nb,p\na,p\n", r"s.csv, line 4: 'a' with number 'p', and 's' before \(2\)"),
        ("s.csv", "text,group,n\na,,s\n", "s.csv, line 2: no group"),
        ("s.csv", "text,group\na,1\n", "s.csv with the columns text, group; wanted the columns text, one or more"),
        ("s.csv", "", "s.csv, line 1: ''"),
        ("s.csv", "text,n\n", "s.csv without a row"),
        ("s.csv", "text,n,n\na,1,2\n", "s.csv, line 1: the column 'n' twice"),
        ("s.jsonl", '{"text": "a"}\n{"text"\n', "s.jsonl, line 2: "),
        ("s.jsonl", '{"text": "a", "n": 1}\n3\n', "s.jsonl, entry 2: no object"),
        ("s.json", '[{"sentence": "a"}]', "s.json with the columns sentence; wanted the columns text"),
        ("s.parquet", "no parquet", "s.parquet"),
        ("s.xlsx", "", "a file that ends in one of .csv, .tsv"),
        ("s.csv", b"text,n\n\xe9,s\n", "not UTF-8 at byte 7"),
    ],
)
def test_a_bad_file_is_named_with_its_line_and_separator(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadInput, match=message):
        read_sentences(tmp_path / name)


def test_objects_that_hold_no_sentences_are_named(tmp_path):
    for given, message in (
        (tmp_path / "none.csv", "is not a file"),
        (3, "got a int"),
        ({"text": ["a"], "n": []}, "text 1, n 0"),
    ):
        with pytest.raises(BadInput, match=message):
            read_sentences(given)
    with pytest.raises(BadInput, match=r"Pass one of them, such as data\['train'\]"):
        read_sentences(DatasetDict({"train": Dataset.from_list(ROWS)}))
    with pytest.raises(UnknownName, match="unknown property 'number'. Known: noun, verb."):
        read_sentences(Dataset.from_list(ROWS), ["number"])


# ---- pairs


def test_pairs_share_a_value_and_never_a_group_and_parts_share_no_group():
    read = read_sentences(Dataset.from_list(ROWS))
    data = property_pairs(read.texts, read.labels["noun"], read.groups)
    noun = dict(zip(read.texts, read.labels["noun"], strict=True))
    group = dict(zip(read.texts, read.groups, strict=True))
    seen = []
    for part in data.values():
        for row in part.select(range(40)):
            right = row["candidates"][row["label"]]
            assert noun[right] == noun[row["input"]] == row["input_template"] and group[right] != group[row["input"]]
            others = [text for i, text in enumerate(row["candidates"]) if i != row["label"]]
            assert len(set(others)) == 7 and all(noun[text] != noun[right] for text in others)
        seen.append({group[text] for texts in part["candidates"] for text in texts} | {group[t] for t in part["input"]})
    assert not seen[0] & seen[1] and not seen[1] & seen[2] and not seen[0] & seen[2]
    again = property_pairs(read.texts, read.labels["noun"], read.groups)
    assert again["test"].to_dict() == data["test"].to_dict()


def test_many_values_of_six_groups_each_are_divided_so_that_no_part_lacks_one():
    """Sixty values in six groups each: at random, a part would lack some of them always."""
    labels = [str(i % 60) for i in range(360)]
    texts = [f"sentence {i}" for i in range(360)]
    value = dict(zip(texts, labels, strict=True))
    seen = []
    for part in property_pairs(texts, labels, None).values():
        inside = {text for row in part for text in (*row["candidates"], row["input"])}
        assert {value[text] for text in inside} == set(labels)
        seen.append(inside)
    assert not seen[0] & seen[1] and not seen[1] & seen[2] and not seen[0] & seen[2]


def test_too_few_groups_for_three_parts_are_named():
    with pytest.raises(BadInput, match="'b' in 5 groups; wanted every value in six groups"):
        property_pairs([str(i) for i in range(25)], ["b" if i < 5 else "a" for i in range(25)], None)


# ---- from a file to a report


def test_the_command_writes_a_report_figures_and_a_truthful_checkpoint(encoder_folder, tmp_path, capsys):
    file, out = written(tmp_path / "s.csv", ";"), tmp_path / "found"
    words = ["locate", str(file), "--encoder", str(encoder_folder), "--layer", "1", "--epochs", "1", "--out", str(out)]
    assert main([*words, "--properties", "noun"]) == 0
    said = capsys.readouterr().out
    assert "noun" in said and "verdict" in said and str(out) in said
    report = hf_repgeo.GeometryReport.from_json(out / "where.json")
    assert set(report.provenance["where"]) == {"noun"}
    assert report.provenance["where"]["noun"]["verdict"] not in ("absent", "cannot tell")  # nouns differ in meaning
    assert main(["report", "show", str(out / "where.json")]) == 0
    assert "verdict" in capsys.readouterr().out and "noun, n = 168\n" in repr(report)
    assert main(["plot", str(out / "where.json"), "--out", str(tmp_path / "again.png")]) == 0
    row = report.row("selection_accuracy", stack="noun")
    assert 0 <= row["value"] <= 1 and row["details"]["null"] == 1 / 8 and "shuffled_dimensions" in row["details"]
    assert {path.name for path in out.iterdir()} == {"where.json", "where.png", "where.html", "noun"}
    model = AutoModel.from_pretrained(out / "noun")
    config = model.config
    assert (config.encoder, config.layer, config.pooling) == (str(encoder_folder), 1, "mean")
    assert "layer1-mean" in config.embedding and config.mask == "per_region" and config.permutation_seed is None
    card = (out / "noun" / "README.md").read_text()
    assert f"| encoder | `{encoder_folder.name}` |" in card and "| layer | 1 |" in card and "s.csv" in card
    assert {"latents.png", "confusion.png", "modeling_sparse_vae.py"} <= {
        path.name for path in (out / "noun").iterdir()
    }
    assert "auto_map" in json.loads((out / "noun" / "config.json").read_text())
    latents = model.encode_sentences([ROWS[0]["text"], ROWS[90]["text"]])  # the config names encoder and layer
    from hf_repgeo.sparse_vae.embeddings import embed_sentences

    rows = embed_sentences([ROWS[0]["text"], ROWS[90]["text"]], encoder_folder, layer=1, pooling="mean").rows
    assert torch.allclose(latents, model(inputs_embeds=rows).latents, atol=1e-5)


@pytest.fixture
def folder_with_code(encoder_folder, tmp_path):
    """An encoder whose class is in its folder: BERT with every hidden state turned around."""
    folder = tmp_path / "own-code"
    shutil.copytree(encoder_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    classes = {"AutoConfig": "modeling_turned.TurnedConfig", "AutoModel": "modeling_turned.TurnedModel"}
    config |= {"model_type": "turned", "architectures": ["TurnedModel"], "auto_map": classes}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_turned.py").write_text(
        "from transformers import BertConfig, BertModel\n\n\n"
        "class TurnedConfig(BertConfig):\n    model_type = 'turned'\n\n\n"
        "class TurnedModel(BertModel):\n    config_class = TurnedConfig\n\n"
        "    def forward(self, *args, **kwargs):\n"
        "        found = super().forward(*args, **kwargs)\n"
        "        if found.hidden_states is not None:\n"
        "            found['hidden_states'] = tuple(-states for states in found.hidden_states)\n"
        "        return found\n"
    )
    return folder


def test_an_encoder_with_its_own_code_is_run_only_if_trusted(folder_with_code, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    file, out = written(tmp_path / "s.csv", ","), tmp_path / "found"
    words = ["locate", str(file), "--encoder", str(folder_with_code), "--epochs", "0", "--out", str(out)]
    assert main([*words, "--properties", "noun"]) == 2
    said = capsys.readouterr().err
    assert "holds code that loading would run" in said and "--trust-remote-code" in said and said.count("\n") == 1
    assert not (out / "where.json").exists()
    assert main([*words, "--properties", "noun", "--trust-remote-code"]) == 0
    assert hf_repgeo.GeometryReport.from_json(out / "where.json").provenance["where"]["noun"]["verdict"] != "absent"


def test_rows_of_an_encoder_with_its_own_code_are_what_that_code_makes(folder_with_code, encoder_folder):
    from hf_repgeo.sparse_vae.embeddings import embed_sentences

    texts = [row["text"] for row in ROWS[:3]]
    plain, turned = (
        embed_sentences(texts, encoder_folder),
        embed_sentences(texts, folder_with_code, trust_remote_code=True),
    )
    assert torch.equal(turned.rows, -plain.rows)
    model = SparseVAEForSentenceEmbedding(
        SparseVAEConfig(hidden_size=32, kernel=(4, 2), stride=(4, 2), encoder=str(folder_with_code))
    )
    with pytest.raises(ValueError, match="load it yourself, and give `text_encoder` and `tokenizer`"):
        model.encode_sentences(texts)


def test_a_verdict_alone_needs_no_training_and_no_folder(encoder, tokenizer):
    report = hf_repgeo.locate(Dataset.from_list(ROWS), encoder, tokenizer=tokenizer, epochs=0, properties=["verb"])
    assert list(report.verdicts) == ["verb"] and report.provenance["pooling"] == "mean"


def test_bad_options_are_named(encoder, tokenizer, tmp_path):
    data = Dataset.from_list(ROWS)
    with pytest.raises(BadInput, match="`epochs`: got -1"):
        hf_repgeo.locate(data, encoder, tokenizer=tokenizer, epochs=-1)
    with pytest.raises(BadInput, match="`pooling`: got 'sentence' with a BertModel"):
        hf_repgeo.locate(data, encoder, tokenizer=tokenizer, epochs=0, pooling="sentence")
    with pytest.raises(BadInput, match="`layer`: got 9"):
        hf_repgeo.locate(data, encoder, tokenizer=tokenizer, epochs=0, layer=9)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="`out`: .*is a file; wanted a folder"):
        hf_repgeo.locate(data, encoder, tokenizer=tokenizer, epochs=0, out=tmp_path / "file")


def test_folders_of_properties_differ_from_each_other_and_from_the_reports_files():
    found = _folder_names(["a/b", "a-b", "A-B", "where.json", "?", "性"])
    assert found == ["a-b", "a-b-2", "A-B-3", "where.json-2", "property", "性"]


@pytest.mark.parametrize("kind", ["decoder", "encoder_decoder"])
def test_other_architectures_and_tokenizers_without_padding_are_located(kind, request):
    tokenizer = make_tokenizer(special=False)
    tokenizer.pad_token = None
    data = Dataset.from_list(ROWS)
    report = hf_repgeo.locate(data, request.getfixturevalue(kind), tokenizer=tokenizer, epochs=0, properties=["noun"])
    assert report.verdicts["noun"] not in ("absent", "cannot tell")


def test_a_sentence_transformer_is_read_as_it_encodes(encoder_folder):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    own = sentence_transformers.SentenceTransformer(str(encoder_folder), device="cpu")
    report = hf_repgeo.locate(Dataset.from_list(ROWS), own, epochs=0, properties=["noun"])
    assert report.provenance["pooling"] == "sentence" and report.verdicts["noun"] != "absent"
