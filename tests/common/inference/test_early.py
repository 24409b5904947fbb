"""What verbs that run models refuse before torch is imported."""

import pytest

from common.cli import run
from tests.support.verbs import verb


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("tag a.wav --model a.wav", "a.wav is a file; give the folder of a run, or a model"),
        ("tag a.wav --model runs/nope", "runs/nope does not exist; give the folder of a run, or a model"),
        ("complexity a.wav", "a.wav is a file; give the folder of a run"),
        ("tag a.wav --model mn04.as --events empty", "empty is a folder; name a file to write."),
        ("embed . --model mn04.as --out a.wav/x.npz", "a.wav/x.npz cannot be written: a.wav is a file."),
        ("export mn04.as --out empty", "empty is a folder; name a file to write."),
    ],
)
def test_a_place_of_the_wrong_kind_is_told_before_any_work(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.wav").write_text("no audio")
    (tmp_path / "empty").mkdir()
    assert verb(*words.split()) == 2
    told = capsys.readouterr().err
    assert told.startswith(sentence) and told.count("\n") == 1


def test_a_folder_in_the_place_of_a_file_is_told_wherever_it_turns_up(tmp_path, capsys):
    def work() -> None:
        (tmp_path / "new").write_text("x")
        (tmp_path / "new").rename(tmp_path)

    assert run("program", {"work": work}, ["work"]) == 2
    assert f"{tmp_path}: " in (told := capsys.readouterr().err) and told.count("\n") == 1
