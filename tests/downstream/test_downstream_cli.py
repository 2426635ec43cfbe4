"""`hf-repgeo downstream`: each verb does what its function does, from the shell."""

import pytest
import torch

from hf_repgeo.cli import main


def test_sample_writes_sequences_and_their_distances(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("\n".join(f"word number n{i} of the first file" for i in range(30)))
    (tmp_path / "b.txt").write_text("\n".join(f"another line l{i} in the second file" for i in range(30)))
    files = [str(tmp_path / name) for name in ("a.txt", "b.txt")]
    assert main(["downstream", "sample", *files, "--n", "20", "--out", str(tmp_path / "out")]) == 0
    assert len((tmp_path / "out" / "sequences.txt").read_text().splitlines()) == 20
    assert (tmp_path / "out" / "frequencies.png").stat().st_size > 10_000
    assert "unigrams" in capsys.readouterr().out


def test_perturb_writes_a_model_that_loads(tmp_path, encoder_folder, encoder, capsys):
    from transformers import AutoModel, AutoTokenizer

    out = str(tmp_path / "noisy")
    arguments = ["--alpha", "0.2", "--how", "scaled_noise", "--layers", "1", "--kinds", "attention", "--out", out]
    assert main(["downstream", "perturb", str(encoder_folder), *arguments]) == 0
    loaded, before = AutoModel.from_pretrained(out).state_dict(), encoder.state_dict()
    touched = {name for name in before if not torch.equal(before[name], loaded[name])}
    assert touched and all(name.startswith("encoder.layer.1.attention") for name in touched)
    assert AutoTokenizer.from_pretrained(out)("the cat")["input_ids"]


def test_a_dose_in_per_cent_is_refused_with_its_share(tmp_path, encoder_folder, capsys):
    assert main(["downstream", "perturb", str(encoder_folder), "--alpha", "5", "--out", str(tmp_path)]) == 2
    assert "Per cent? Write 0.05." in capsys.readouterr().err


def test_regress_writes_a_report_and_says_what_is_in_it(tmp_path, capsys):
    rows = ["architecture,alpha,run,score,patchiness,flat"]
    for family in "ab":
        for step, alpha in enumerate((0.01, 0.02, 0.05, 0.1, 0.3)):
            for run in range(3):
                rows.append(f"{family},{alpha},{run},{0.8 - 0.1 * step + 0.01 * run},{3 - step + run % 2},1")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    arguments = [str(tmp_path / "table.csv"), "--score", "score", "--out", str(tmp_path / "out")]
    assert main(["downstream", "regress", *arguments]) == 0
    said = capsys.readouterr().out
    assert "patchiness correlates with it at 0.9" in said and "flat is left out: the same in all rows" in said
    assert (tmp_path / "out" / "report.html").exists()
    assert main(["downstream", "regress", *arguments, "--measures", "patchines"]) == 2
    assert "Did you mean 'patchiness'?" in capsys.readouterr().err


def test_study_writes_a_table_and_says_what_failed(tmp_path, encoder_folder, capsys):
    arguments = [f"tiny={encoder_folder}", "--tasks", "geometry", "--alphas", "0,0.1", "--runs", "1", "--quiet"]
    arguments += ["--measures", "anisotropy,anisotrop", "--sequences", "40", "--out", str(tmp_path)]
    assert main(["downstream", "study", *arguments]) == 0
    said = capsys.readouterr().out
    assert "2 jobs failed, the first with UnknownName: unknown measure 'anisotrop'" in said


def test_doses_that_are_no_numbers_are_a_usage_error(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["downstream", "study", "m", "--alphas", "0,much", "--out", str(tmp_path)])
    assert "wanted numbers, such as 0,0.01,0.1" in capsys.readouterr().err
