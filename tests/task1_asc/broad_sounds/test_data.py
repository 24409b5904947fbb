import os
import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit

from common.errors import CheckFailed, UserError
from common.synthetic import broad_sounds as synthetic
from task1_asc.broad_sounds.check import OFFICIAL, check_data
from task1_asc.broad_sounds.data import folds_by_protocol, licence, make_folds, read_sounds, read_splits, write_splits
from task1_asc.broad_sounds.taxonomy import CODES, OTHERS, TOP_OF


@pytest.fixture
def copied(made_up, tmp_path):
    """The sets with tables of their own, and links to the audio."""
    root = tmp_path / "sets"
    shutil.copytree(made_up, root, copy_function=os.link)
    for path in root.rglob("*.csv"):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    return root


def change(path, **cells):
    """Write cells of the first row of a table."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    for column, value in cells.items():
        table.loc[0, column] = value
    table.to_csv(path, index=False)


def test_the_taxonomy_has_its_published_order():
    assert CODES[:5] == ("m-sp", "m-si", "m-m", "is-p", "is-s") and len(CODES) == 23
    assert np.bincount(TOP_OF).tolist() == [3, 5, 3, 8, 4]
    assert tuple(synthetic.CODES) == CODES
    assert [synthetic.class_number(code) for code in ("m-sp", "is-w", "fx-o", "ss-s")] == [101, 203, 401, 504]
    assert sum(OFFICIAL["bsd10k"].values()) == 10_956 and sum(OFFICIAL["bsd35k-cs"].values()) == 33_829
    assert sum(OFFICIAL["bsd35k-cs"][code] for code in OTHERS) == 2_365


def test_folds_are_the_published_ones():
    """The procedure of the baseline, on classes by number; the order of rows and of the taxonomy decide."""
    codes = np.random.default_rng(3).choice(CODES, 900, p=np.arange(1, 24) / 276)
    numbers = np.array([CODES.index(code) for code in codes])
    rows = np.zeros(len(codes))
    expected = StratifiedKFold(n_splits=5, shuffle=True, random_state=1821).split(rows, numbers)
    for fold, (rest, test) in zip(make_folds(codes.tolist()), expected):
        splitter = StratifiedShuffleSplit(n_splits=1, test_size=0.2, random_state=1821)
        train, validation = next(splitter.split(rows[rest], numbers[rest]))
        assert fold.test.tolist() == test.tolist()
        assert fold.train.tolist() == rest[train].tolist()
        assert fold.validation.tolist() == rest[validation].tolist()
    turned = make_folds(codes[::-1].tolist())
    assert set(turned[0].test.tolist()) != {899 - row for row in make_folds(codes.tolist())[0].test.tolist()}


def test_folds_have_the_published_sizes():
    codes = np.repeat(list(OFFICIAL["bsd10k"])[:23], list(OFFICIAL["bsd10k"].values())[:23])
    folds = make_folds(np.random.default_rng(0).permutation(codes))
    assert [len(fold.test) for fold in folds] == [2192, 2191, 2191, 2191, 2191]
    assert (len(folds[0].train), len(folds[0].validation)) == (7011, 1753)
    assert sorted(np.concatenate([fold.test for fold in folds]).tolist()) == list(range(10_956))


def test_no_uploader_is_on_two_sides(made_up):
    sounds = read_sounds(made_up / "BSD10k")
    uploader = sounds.clips["uploader"].to_numpy()
    shared = [len(set(uploader[fold.test]) & set(uploader[fold.train])) for fold in make_folds(sounds.targets)]
    assert min(shared) > 0
    folds = make_folds(sounds.targets, uploaders=uploader.tolist())
    for fold in folds:
        sides = [set(uploader[rows]) for rows in (fold.train, fold.validation, fold.test)]
        assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    assert sorted(np.concatenate([fold.test for fold in folds]).tolist()) == list(range(len(uploader)))


def test_splits_are_written_and_read_as_the_baseline_does(made_up, tmp_path):
    sounds = read_sounds(made_up / "BSD10k")
    folds = make_folds(sounds.targets)
    write_splits(tmp_path, sounds.ids, dict(enumerate(folds)))
    lines = (tmp_path / "fold_3" / "splits.csv").read_text().splitlines()
    assert lines[:2] == ["index,split", f"{sounds.ids[folds[3].train[0]]},train"]
    for number, fold in read_splits(tmp_path, sounds.ids).items():
        assert all(np.array_equal(own, vars(folds[number])[name]) for name, own in vars(fold).items())
    assert read_splits(tmp_path / "fold_1" / "splits.csv", sounds.ids, [0])[0].test.tolist() == folds[1].test.tolist()
    path = tmp_path / "fold_0" / "splits.csv"
    path.write_text("\n".join(lines[:-1]))
    with pytest.raises(UserError, match="183 of 184 clips"):
        read_splits(tmp_path, sounds.ids)
    path.write_text("\n".join([*lines, "77,train"]))
    with pytest.raises(UserError, match="lacks, the first is 77"):
        read_splits(tmp_path, sounds.ids)


def test_texts_hold_quotes_and_line_breaks_and_may_be_empty(made_up):
    sounds = read_sounds(made_up / "BSD10k")
    texts = sounds.texts()
    assert len(texts) == 184 and any('"as it is"' in text for text in texts)
    assert "" in texts and not any("\n" in text for text in texts)
    assert sounds.texts(["title"])[0] in texts[0]
    assert set(read_sounds(made_up / "BSD35k-CS").clips["class"]) <= set(CODES)
    assert len(read_sounds(made_up / "BSD35k-CS", others=True).ids) == 204
    assert read_sounds(made_up / "BSD35k-CS").clips["confidence"].isna().all()


@pytest.mark.parametrize(
    ("name", "cells", "message"),
    [
        ("BSD10k", {"class": "m-zz"}, r"has the class m-zz, which does not exist"),
        ("BSD10k", {"sound_id": ""}, "nothing in the column sound_id"),
        ("BSD10k", {"sound_id": "../x"}, "is no name of a file"),
        ("BSD10k", {"confidence": "6"}, "is '6'; it is 1 to 5, or empty"),
        ("BSD10k", {"confidence": "high"}, "is 'high'"),
        ("BSD2k", {"anonymous_id": ""}, "nothing in the column anonymous_id"),
    ],
)
def test_a_wrong_cell_is_named(copied, name, cells, message):
    change(copied / name / "metadata" / f"{name}_metadata.csv", **cells)
    with pytest.raises(UserError, match=message):
        read_sounds(copied / name)


def test_a_doubled_id_is_named_also_with_ending(copied):
    path = copied / "BSD2k" / "metadata" / "BSD2k_metadata.csv"
    second = pd.read_csv(path)["anonymous_id"][1]
    change(path, anonymous_id=f"{second}.wav")
    with pytest.raises(UserError, match=f"names {second} twice"):
        read_sounds(copied / "BSD2k")


def test_an_empty_confidence_is_none(copied):
    change(copied / "BSD10k" / "metadata" / "BSD10k_metadata.csv", confidence="", title="", tags="", description="")
    sounds = read_sounds(copied / "BSD10k")
    assert np.isnan(sounds.clips["confidence"][0]) and sounds.texts()[0] == ""


@pytest.mark.parametrize(
    ("link", "name"),
    [
        ("http://creativecommons.org/publicdomain/zero/1.0/", "CC0"),
        ("https://creativecommons.org/licenses/by/4.0/", "CC BY"),
        ("http://creativecommons.org/licenses/by-nc/3.0/", "CC BY-NC"),
        ("Attribution NonCommercial", "CC BY-NC"),
        ("Attribution", "CC BY"),
        ("http://creativecommons.org/licenses/sampling+/1.0/", "other"),
    ],
)
def test_licences_are_told_apart(link, name):
    assert licence(link) == name


def test_whole_made_up_data_pass_the_check(made_up):
    report = check_data(made_up)
    assert report.made_up and not report.problems
    by_set = {row["set"]: row for row in report.rows}
    assert by_set["BSD35k-CS"]["clips"] == 204 and by_set["BSD35k-CS"]["of 23 classes"] == 184
    assert by_set["BSD10k"]["shortest s"] == pytest.approx(0.007, abs=1e-4)
    free = check_data(made_up / "BSD10k", commercial_only=True).rows[0]
    assert free["CC BY-NC"] == 0 and free["clips"] == by_set["BSD10k"]["CC0"] + by_set["BSD10k"]["CC BY"]


def test_the_check_names_what_is_missing(copied, capsys):
    first, second, third, fourth = read_sounds(copied / "BSD2k").ids[:4]
    folder = copied / "BSD2k"
    (folder / "audio" / f"{first}.wav").unlink()
    vectors = folder / "features" / "clap_audio_embeddings"
    for name, content in ((second, None), (third, np.full(512, np.nan, np.float32)), (fourth, np.zeros(7))):
        (vectors / f"{name}.npy").unlink()
        if content is not None:
            np.save(vectors / f"{name}.npy", content)
    with pytest.raises(CheckFailed) as failed:
        check_data(folder).show(json=True)
    lines = str(failed.value).splitlines()
    assert [name in line for name, line in zip((first, second, third, fourth), lines)] == [True] * 4
    assert "have no wav file" in lines[0] and "NaN" in lines[2] and "another size" in lines[3]


@pytest.mark.parametrize("protocol", ["published", "uploader"])
def test_an_evaluation_set_has_no_folds(made_up, protocol):
    with pytest.raises(UserError, match="is bsd2k, which has no classes"):
        folds_by_protocol(read_sounds(made_up / "BSD2k"), protocol)


def test_a_folder_without_a_set_is_named(tmp_path):
    with pytest.raises(UserError, match="has no data set of broad sounds"):
        read_sounds(tmp_path)
