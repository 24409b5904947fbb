"""Downloads with checksums; they resume after an interruption."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from common.data.files import human_size
from common.errors import UserError
from common.output import Progress

CHUNK = 2**16  # most that a broken connection loses
TRIES = 4
TIMEOUT = (15, 60)  # seconds to connect, and between two pieces of a response


@dataclass(frozen=True)
class RemoteFile:
    """A file to download; `checksum` is "md5:..." or "sha256:...", None where the publisher gives none.

    Raises:
        UserError: if the name, which may come from a listing, is not a plain file name.
    """

    name: str
    url: str
    checksum: str | None = None

    def __post_init__(self) -> None:
        if self.name.startswith(".") or not self.name.isprintable() or set(self.name) & set("/\\:") or not self.name:
            raise UserError(f"{self.url} is listed as {self.name!r}, which is no name of a file; nothing was saved.")


def download(file: RemoteFile, folder: Path, quiet: bool = False) -> Path:
    """Download a file unless it is there with the right checksum; resume where an earlier call stopped.

    An unfinished download is NAME.part in the folder.

    Raises:
        UserError: if the address cannot be reached (with the file and the place to put it by hand), the connection
            breaks off several times, the checksum is wrong, or nothing can be written.
    """
    import pooch
    import requests

    folder = Path(folder)
    path = folder / file.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pooch.get_logger().setLevel("ERROR")
        found = pooch.retrieve(
            file.url,
            known_hash=file.checksum,
            fname=file.name,
            path=folder,
            downloader=_Resume(folder / f"{file.name}.part", quiet),
        )
    except requests.RequestException as error:
        raise UserError(
            f"{file.url} cannot be downloaded ({_reason(error)}). "
            f"Try again later, or put {file.name} into {folder} by hand and run this again."
        ) from error
    except ValueError as error:  # pooch's error for a wrong checksum
        raise UserError(
            f"{path} has not the published checksum {file.checksum}; the download was deleted, run this again."
        ) from error
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror or error}.") from error
    return Path(found)


def zenodo_files(record: int, folder: Path, server: str = "https://zenodo.org") -> list[RemoteFile]:
    """The files of a Zenodo record with their checksums; the list is kept in `folder`.

    Raises:
        UserError: if the record cannot be read.
    """
    listing = RemoteFile(f"zenodo_{record}.json", f"{server}/api/records/{record}")
    path = download(listing, folder, quiet=True)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        listed = [(entry["key"], entry["links"]["self"], entry["checksum"]) for entry in content["files"]]
        if not all(isinstance(text, str) for entry in listed for text in entry):
            raise TypeError("names, addresses and checksums are text")
        return [RemoteFile(*entry) for entry in listed]
    except UserError:
        path.unlink()
        raise
    except (ValueError, KeyError, TypeError) as error:
        path.unlink()
        raise UserError(f"{listing.url} did not answer with a list of files; is {record} a Zenodo record?") from error


class _Resume:
    """Downloader for pooch: fills a .part file, requests only missing bytes, and renames the whole file."""

    def __init__(self, part: Path, quiet: bool):
        self.part, self.quiet = part, quiet

    def __call__(self, url: str, output_file: str | os.PathLike, pooch: object) -> None:
        import requests

        for attempt in range(TRIES):
            before = self._received()
            try:
                self._receive(url)
                break
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
                # Another attempt only after the first one, or if this one received something.
                if attempt == TRIES - 1 or (attempt > 0 and self._received() == before):
                    raise
        shutil.move(self.part, output_file)

    def _receive(self, url: str) -> None:
        import requests

        received = self._received()
        headers = {"Accept-Encoding": "identity"}  # a compressed response cannot be resumed
        if received:
            headers["Range"] = f"bytes={received}-"
        with requests.get(url, stream=True, headers=headers, timeout=TIMEOUT) as answer:
            if answer.status_code == requests.codes.requested_range_not_satisfiable:
                if answer.headers.get("Content-Range", "").endswith(f"/{received}"):
                    return  # whole already
                self.part.unlink()
                self._receive(url)
                return
            answer.raise_for_status()
            resumes = answer.status_code == requests.codes.partial_content
            length = answer.headers.get("Content-Length")
            start = received if resumes else 0
            total = start + int(length) if length else None
            unit = 2**20
            progress = Progress(
                f"Downloading {self.part.stem}", total and total // unit, "MiB", done=start // unit, quiet=self.quiet
            )
            with self.part.open("ab" if start else "wb") as file, progress:
                for chunk in answer.iter_content(CHUNK):
                    before = file.tell() // unit
                    file.write(chunk)
                    progress.advance(file.tell() // unit - before)
        if total is not None and self._received() < total:
            raise requests.ConnectionError(f"broke off at {human_size(self._received())} of {human_size(total)}")

    def _received(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0


def _reason(error: Exception) -> str:
    response = getattr(error, "response", None)
    if response is not None:
        return f"the server answered {response.status_code} {response.reason}"
    text = str(error)
    if "resolve" in text or "Name or service" in text:
        return "no network, or the name is unknown"
    if "refused" in text:
        return "the connection was refused"
    if "timed out" in text:
        return "no answer in time"
    return "the connection broke off, what was received is kept"
