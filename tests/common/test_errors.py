"""Optional parts: one that is not installed is named with its command, a broken one with its own error."""

import sys

import pytest

from common.errors import UserError, import_part


def test_a_broken_part_shows_its_own_error(tmp_path, monkeypatch):
    (tmp_path / "kit_part_broken.py").write_text("raise OSError('libcuda.so.1: cannot open shared object file')\n")
    (tmp_path / "kit_part_needy.py").write_text("import kit_part_absent\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        UserError, match=r"kit_part_broken is installed but cannot .*OSError: libcuda\.so\.1: cannot open"
    ):
        import_part("kit_part_broken", "install it")
    with pytest.raises(UserError, match=r"kit_part_needy is installed but .*No module named 'kit_part_absent'"):
        import_part("kit_part_needy", "install it")
    with pytest.raises(UserError, match=r"^install it$"):
        import_part("kit_part_absent", "install it")
    monkeypatch.setitem(sys.modules, "kit_part_blocked", None)
    with pytest.raises(UserError, match=r"^install it$"):
        import_part("kit_part_blocked", "install it")
