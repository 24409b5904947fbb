"""Messages and tables on a terminal."""

from common.output import print_error, print_table


def test_control_characters_of_names_are_shown_escaped(capsys):
    print_error("clip\x1b[2J.wav, \udcff.wav\nnext line")
    print_table([{"file": "clip\x1b[2J\n.wav"}])
    told = capsys.readouterr()
    assert told.err == "clip\\x1b[2J.wav, \\udcff.wav\nnext line\n"
    assert "clip\\x1b[2J\\n.wav" in told.out
