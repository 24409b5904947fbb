import importlib.util

from common.inference import compiled

SOURCE = "def twice(value):\n    return 2 * value\n"


def load(path):
    """The function of a file, compiled, in a module that nothing knows yet."""
    spec = importlib.util.spec_from_file_location("of_this_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return compiled.compiled(module.twice)


def test_the_first_compilation_says_so_once_and_what_is_kept_is_not_compiled_again(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(compiled._announcement, "said", False)
    (tmp_path / "loops.py").write_text(SOURCE)
    function = load(tmp_path / "loops.py")
    assert function(3) == 6 and function(1.5) == 3.0  # two types: compiled twice
    assert capsys.readouterr().err.count("once on this machine") == 1
    assert list(tmp_path.rglob("*.nbi"))

    monkeypatch.setattr(compiled._announcement, "said", False)
    assert load(tmp_path / "loops.py")(3) == 6
    assert capsys.readouterr().err == ""
