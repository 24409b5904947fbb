"""Damages of packages of retrieval, and those of 2025 alone."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from tests.support.damage import Damage, content, edit_line, in_meta, meta, named, prepend, put, report, rewrite

OUTPUT = "*.output.csv"
COMPLEXITY, EVALUATION = ("system", "complexity"), ("results", "development_evaluation")


def ranked(change) -> Callable[[Path], None]:
    return rewrite(OUTPUT, change, separator=",")


def figure(name: str, value: object) -> Callable[[Path], None]:
    return in_meta(put(*EVALUATION, name, value=value))


RETRIEVAL: dict[str, Damage] = {
    "a byte order mark": (
        prepend(OUTPUT, b"\xef\xbb\xbf"),
        "table_form",
        ".output.csv:1 starts with a byte order mark",
    ),
    "a header and no rows": (ranked(lambda table: table.iloc[:0]), "table_form", ".output.csv has no rows"),
    "tabs between columns": (
        lambda p: named(p, OUTPUT).write_text(named(p, OUTPUT).read_text().replace(",", "\t")),
        "table_form",
        ".output.csv",
    ),
    "a quotation mark that is not closed": (
        lambda p: edit_line(named(p, OUTPUT), 2, lambda row: '"' + row),
        "table_form",
        ".output.csv",
    ),
    "bytes that are not UTF-8": (
        content(OUTPUT, b"rain falls", b"rain \xff"),
        "table_form",
        ".output.csv:2 is not UTF-8",
    ),
    "a query in capitals": (content(OUTPUT, b"rain falls", b"RAIN FALLS"), "queries", ".output.csv:2 the query is"),
    "a blank behind a query": (content(OUTPUT, b"rain falls", b"rain falls "), "queries", ".output.csv:2 the query is"),
    "a query too many": (
        ranked(lambda table: pd.concat([table, table.iloc[[0]]])),
        "queries",
        ".output.csv 5 queries, expected 4",
    ),
    "the table in a subfolder": (
        lambda p: (named(p, OUTPUT).parent / "sub").mkdir() or shutil.move(named(p, OUTPUT), meta(p).parent / "sub"),
        "files",
        ".output.csv is missing",
    ),
    "a second table": (
        lambda p: shutil.copy(named(p, OUTPUT), meta(p).parent / "old.output.csv"),
        "no_other_files",
        "old.output.csv does not belong",
    ),
    "an empty table": (lambda p: named(p, OUTPUT).write_text(""), "files", ".output.csv is empty"),
    "mAP@10 below R@1": (figure("mAP@10", 0.1), "recall_plausible", "R@1 is 0.2, more than mAP@10 with 0.1"),
    "nothing found": (
        in_meta(
            lambda data: data["results"]["development_evaluation"].update({"R@1": 0, "R@5": 0, "R@10": 0, "mAP@10": 0})
        ),
        "recall_plausible",
        "R@10 is 0: no recording was found",
    ),
    "true for a figure": (figure("R@5", True), "meta_form", "R@5 must be a number from 0 to 1, found True"),
    "a figure as text": (figure("R@5", "0.5"), "meta_form", "R@5 must be a number from 0 to 1, found '0.5'"),
    "parameters in millions": (
        in_meta(put(*COMPLEXITY, "total_parameters", value=86.4)),
        "meta_form",
        "system.complexity.total_parameters must be a whole number",
    ),
    "no authors": (in_meta(put("submission", "authors", value=[])), "meta_form", "submission.authors must be a list"),
    "an author as text": (
        in_meta(put("submission", "authors", value=["Jane Doe"])),
        "meta_form",
        "submission.authors[0] must hold lastname, firstname",
    ),
    "names of authors as lists": (
        in_meta(put("submission", "authors", value=[{"lastname": ["a"], "firstname": {}}] * 2)),
        "authors",
        "0 authors are corresponding",
    ),
    "a template not filled in": (
        in_meta(put("system", "description", "audio_modelling", value="FILL IN (such as PaSST)")),
        "meta_filled_in",
        "system.description.audio_modelling still says",
    ),
    "a report that ends early": (
        report(b"%PDF-1.7\n1 0 obj <</Type /Page>>"),
        "technical_report",
        "is a PDF that is cut off",
    ),
    "a report of blank pages": (
        report(b"%PDF-1.4\n1 0 obj <</Type /Page /Contents 2 0 R>> endobj\n2 0 obj <<>> stream\nq Q\nendstream\n%%EOF"),
        "technical_report",
        "show neither text nor images",
    ),
}
