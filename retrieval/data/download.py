"""Clotho and the retrieval evaluation set from Zenodo. AudioCaps and WavCaps are not there."""

from pathlib import Path

from common.data.archives import download_and_unpack
from common.data.download import RemoteFile, download
from retrieval.data.captions import CLOTHO

ZENODO = "https://zenodo.org/records"
CLOTHO_RECORD = 4783391
EVALUATION_RECORD = 6590983
# As published, through aac-datasets (functional/clotho.py); name: md5.
CLOTHO_MD5 = {
    "clotho_metadata_development.csv": "170d20935ecfdf161ce1bb154118cda5",
    "clotho_metadata_validation.csv": "2e010427c56b1ce6008b0f03f41048ce",
    "clotho_metadata_evaluation.csv": "13946f054d4e1bf48079813aac61bf77",
    "clotho_audio_development.7z": "c8b05bc7acdb13895bb3c6a29608667e",
    "clotho_audio_validation.7z": "7dba730be08bada48bd15dc4e668df59",
    "clotho_audio_evaluation.7z": "4569624ccadf96223f19cb59fe4f849f",
}
EVALUATION_MD5 = {
    "retrieval_captions.csv": "f9e810118be00c64ea8cd7557816d4fe",
    "retrieval_audio_metadata.csv": "1301db07acbf1e4fabc467eb54e0d353",
    "retrieval_audio.7z": "24102395fd757c462421a483fba5c407",
}


def download_data(root: Path, evaluation: bool = False, delete_archives: bool = False) -> Path:
    """Download and unpack Clotho v2.1, or the evaluation set (1,000 clips and queries); resumes after an interruption.

    Archives are kept in `root/archives` unless they are deleted. Returns `root`.

    Raises:
        UserError: as `common.data.download.download` and `common.data.archives.unpack`.
    """
    root = Path(root)
    captions = {f"clotho_captions_{split}.csv": md5 for split, (_, md5) in CLOTHO.items()}
    record, files = (EVALUATION_RECORD, EVALUATION_MD5) if evaluation else (CLOTHO_RECORD, captions | CLOTHO_MD5)
    for name, md5 in files.items():
        file = RemoteFile(name, f"{ZENODO}/{record}/files/{name}?download=1", f"md5:{md5}")
        if name.endswith(".7z"):
            download_and_unpack(file, root / "archives", root, delete_archives)
        else:
            download(file, root)
    return root
