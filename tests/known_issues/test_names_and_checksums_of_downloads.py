"""Names of files from a listing stay in their folder; every published checksum that is known is compared."""

import json
import re

import pytest

from common.data.download import RemoteFile, zenodo_files
from common.errors import UserError
from tests.support.places import ROOT


@pytest.mark.parametrize(
    "name", ["../evil.zip", "a/b.zip", "/tmp/evil.zip", "C:\\evil.zip", "", ".profile", "a\nb.zip", 7]
)
def test_a_name_of_a_listing_that_leaves_the_folder_is_refused(tmp_path, name):
    listing = {"files": [{"key": name, "checksum": "md5:12", "links": {"self": "https://example.org/file"}}]}
    (tmp_path / "zenodo_77.json").write_text(json.dumps(listing))  # as downloaded before
    with pytest.raises(UserError, match=r"no name of a file|did not answer with a list of files"):
        zenodo_files(77, tmp_path)
    assert not list(tmp_path.iterdir())  # the listing is asked for again


def test_ordinary_names_are_taken():
    names = ["TAU-urban-acoustic-scenes-2022-mobile-development.audio.1.zip", "Café 2.7z", "mn04_as_mAP_432.pt"]
    assert [RemoteFile(name, "https://example.org").name for name in names] == names


def test_every_digest_of_the_sheets_is_compared(shared):
    sheets = [*(shared / "reference").glob("*.md"), shared / "data" / "weights" / "README.md"]
    known = {
        digest for sheet in sheets for digest in re.findall(r"\b(?:[0-9a-f]{64}|[0-9a-f]{32})\b", sheet.read_text())
    }
    code = "".join(path.read_text() for ending in ("py", "yaml") for path in ROOT.glob(f"[crt]*/**/*.{ending}"))
    assert len(known) >= 10 and [digest for digest in known if digest not in code] == []
