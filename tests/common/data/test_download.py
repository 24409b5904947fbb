"""Downloads against a server started here, and unpacking."""

import hashlib
import io
import socket
import stat
import sys
import tarfile
import zipfile
from collections.abc import Iterator

import numpy as np
import pytest

from common.data.archives import unpack
from common.data.download import CHUNK, RemoteFile, download, zenodo_files
from common.errors import UserError
from tests.support.download_server import Server, running_server

CONTENT = np.random.default_rng(0).bytes(3_000_000)
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[Server]:
    with running_server(CONTENT) as running:
        yield running


def fetch(server, folder, checksum=MD5):
    return download(RemoteFile("part.zip", f"{server.address}/part.zip", checksum), folder, quiet=True)


def test_a_file_is_downloaded_once(server, tmp_path):
    path = fetch(server, tmp_path / "new")
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["part.zip"]
    assert fetch(server, tmp_path / "new") == path
    assert server.asked == [""]


def test_a_connection_that_breaks_off_is_taken_up_where_it_ended(server, tmp_path):
    server.break_after = [16 * CHUNK, 8 * CHUNK + 100]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == ["", f"bytes={16 * CHUNK}-", f"bytes={24 * CHUNK}-"]
    assert server.sent == len(CONTENT) + 100


def test_what_was_received_is_used_by_the_next_call(server, tmp_path):
    server.break_after = [10 * CHUNK, 0, 0]
    with pytest.raises(UserError, match=r"what was received is kept.*put part.zip into"):
        fetch(server, tmp_path)
    assert (tmp_path / "part.zip.part").stat().st_size == 10 * CHUNK
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.sent == len(CONTENT)


def test_a_server_without_ranges_sends_it_all_again(server, tmp_path):
    (tmp_path / "part.zip.part").write_bytes(CONTENT[:1000])
    server.knows_ranges = False
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_part_that_is_already_whole_is_not_fetched_again(server, tmp_path):
    (tmp_path / "part.zip.part").write_bytes(CONTENT)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.sent == 0


def test_a_part_longer_than_the_file_is_thrown_away(server, tmp_path):
    (tmp_path / "part.zip.part").write_bytes(CONTENT + b"more")
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_wrong_checksum_is_told_and_nothing_is_left(server, tmp_path):
    with pytest.raises(UserError, match=r"part.zip has not the published checksum md5:0+"):
        fetch(server, tmp_path, "md5:" + "0" * 32)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_that_is_there_is_replaced(server, tmp_path):
    (tmp_path / "part.zip").write_bytes(b"half")
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_file_put_there_by_hand_needs_no_network(tmp_path):
    (tmp_path / "part.zip").write_bytes(CONTENT)
    file = RemoteFile("part.zip", "http://127.0.0.1:9/part.zip", MD5)
    assert download(file, tmp_path).read_bytes() == CONTENT


def test_without_a_network_the_sentence_says_which_file_to_put_where(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/part.zip"
    with pytest.raises(UserError) as error:
        download(RemoteFile("part.zip", address, MD5), tmp_path / "new", quiet=True)
    assert str(error.value) == (
        f"{address} cannot be downloaded (the connection was refused). "
        f"Try again later, or put part.zip into {tmp_path / 'new'} by hand and run this again."
    )


def test_a_server_that_refuses_is_told_by_its_answer(server, tmp_path):
    server.status = 404
    with pytest.raises(UserError, match="the server answered 404 Not Found"):
        fetch(server, tmp_path)


def test_a_place_that_cannot_be_written_is_one_sentence(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write"):
        fetch(server, tmp_path / "file" / "below")


def test_the_files_of_a_zenodo_record_are_listed_with_checksums(server, tmp_path):
    server.texts["/api/records/77"] = (
        b'{"files": [{"key": "a.zip", "checksum": "md5:12", "links": {"self": "http://x/a.zip/content"}}]}'
    )
    assert zenodo_files(77, tmp_path, server.address) == [RemoteFile("a.zip", "http://x/a.zip/content", "md5:12")]
    server.texts["/api/records/78"] = b"<html>no such record</html>"
    with pytest.raises(UserError, match="is 78 a Zenodo record"):
        zenodo_files(78, tmp_path, server.address)


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def make_tar(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


GOOD = [("set/meta.csv", b"filename\n"), ("set/audio/1.wav", b"RIFF" * 1000)]


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_an_archive_is_unpacked_once_and_marked_at_the_end(tmp_path, make):
    archive = make(tmp_path / "good.archive", GOOD)
    assert unpack(archive, tmp_path / "out") is True
    assert (tmp_path / "out/set/audio/1.wav").read_bytes() == b"RIFF" * 1000
    assert unpack(archive, tmp_path / "out") is False
    (tmp_path / "out/.unpacked/good.archive.json").unlink()  # as if it had been stopped before the end
    assert unpack(archive, tmp_path / "out") is True


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../evil.txt", "would leave the folder"),
        ("set/../../evil.txt", "would leave the folder"),
        ("set\\..\\..\\evil.txt", "would leave the folder"),
        ("/tmp/evil.txt", "has an absolute name"),
        ("C:\\evil.txt", "has an absolute name"),
    ],
)
def test_a_member_that_climbs_out_is_refused_before_anything_is_written(tmp_path, make, name, why):
    archive = make(tmp_path / "bad.archive", [*GOOD, (name, b"evil")])
    with pytest.raises(UserError, match=f"{why}; nothing was unpacked"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "evil.txt").exists()


def test_links_in_archives_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "links.zip", "w") as archive:
        link = zipfile.ZipInfo("set/link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with tarfile.open(tmp_path / "links.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            member = tarfile.TarInfo("set/link")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    for name in ("links.zip", "links.tar"):
        with pytest.raises(UserError, match="the member set/link is a link or a device"):
            unpack(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_archive_is_one_sentence_and_not_marked(tmp_path):
    whole = make_zip(tmp_path / "a.zip", [("big.bin", CONTENT[:200_000])]).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[:100_000])
    flipped = bytearray(whole)
    flipped[50_000] ^= 255
    (tmp_path / "flipped.zip").write_bytes(flipped)
    (tmp_path / "text.zip").write_text("no archive")
    packed = make_tar(tmp_path / "a.tgz", [("big.bin", CONTENT[:200_000])]).read_bytes()
    (tmp_path / "cut.tgz").write_bytes(packed[:100_000])
    for name in ("cut.zip", "flipped.zip", "text.zip", "cut.tgz"):
        with pytest.raises(UserError, match=r"delete it and download it again"):
            unpack(tmp_path / name, tmp_path / "out")
        assert not (tmp_path / "out" / ".unpacked" / f"{name}.json").exists()
    with pytest.raises(UserError, match="There is no archive"):
        unpack(tmp_path / "gone.zip", tmp_path / "out")


def test_a_7z_archive_is_unpacked_and_a_bad_one_refused(tmp_path):
    py7zr = pytest.importorskip("py7zr")
    with py7zr.SevenZipFile(tmp_path / "good.7z", "w") as archive:
        for name, content in GOOD:
            archive.writestr(content, name)
    assert unpack(tmp_path / "good.7z", tmp_path / "out") is True
    assert (tmp_path / "out/set/audio/1.wav").read_bytes() == b"RIFF" * 1000
    whole = (tmp_path / "good.7z").read_bytes()
    (tmp_path / "cut.7z").write_bytes(whole[:-40])
    with pytest.raises(UserError, match="delete it and download it again"):
        unpack(tmp_path / "cut.7z", tmp_path / "out")
    (tmp_path / "source").write_text("x")
    (tmp_path / "link").symlink_to("/etc/passwd")
    with py7zr.SevenZipFile(tmp_path / "links.7z", "w") as archive:
        archive.write(tmp_path / "link", "set/link")
    with pytest.raises(UserError, match="the member set/link is a link or a device"):
        unpack(tmp_path / "links.7z", tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_a_missing_part_for_7z_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "py7zr", None)
    (tmp_path / "a.7z").write_bytes(b"7z")
    with pytest.raises(UserError, match="needs py7zr, an optional part"):
        unpack(tmp_path / "a.7z", tmp_path / "out")


def test_clotho_is_fetched_into_the_layout_that_is_read(server, tmp_path, monkeypatch):
    from retrieval.data import download as clotho

    py7zr = pytest.importorskip("py7zr")
    packed = io.BytesIO()
    with py7zr.SevenZipFile(packed, "w") as archive:
        archive.writestr(b"RIFF", "development/a.wav")
    contents = {"clotho_captions_development.csv": b"file_name,caption_1\na.wav,A dog barks.\n",
                "clotho_audio_development.7z": packed.getvalue()}  # fmt: skip
    monkeypatch.setattr(clotho, "ZENODO", server.address)
    monkeypatch.setattr(clotho, "CLOTHO", {"development": (1, hashlib.md5(contents[next(iter(contents))]).hexdigest())})
    md5 = hashlib.md5(contents["clotho_audio_development.7z"]).hexdigest()
    monkeypatch.setattr(clotho, "CLOTHO_MD5", {"clotho_audio_development.7z": md5})
    for name, content in contents.items():
        server.texts[f"/4783391/files/{name}?download=1"] = content
    for _ in range(2):  # the second time everything is there
        clotho.download_data(tmp_path / "clotho", delete_archives=True)
    assert (tmp_path / "clotho/development/a.wav").read_bytes() == b"RIFF"
    assert not list((tmp_path / "clotho/archives").iterdir())
    assert len(server.asked) == 2
