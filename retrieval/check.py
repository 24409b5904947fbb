"""Whether the data of a configuration is whole, and nothing of the evaluation set is trained on."""

from retrieval.data import check_split, exclude, leaks, read_exclusions, read_manifest
from retrieval.settings import RetrievalSettings


def check(settings: RetrievalSettings) -> list[str]:
    """One sentence per problem: counts, checksums, missing files, sources that are trained on and tested on."""
    problems: list[str] = []
    data = settings.data
    evaluation = read_manifest(data.evaluation.dataset, data.evaluation.root, data.evaluation.split)
    for source in (data.validation, data.evaluation):
        problems += check_split(read_manifest(source.dataset, source.root, source.split), source.root)
    for source in (*data.pretraining, *data.training):
        manifest = read_manifest(source.dataset, source.root, source.split)
        problems += check_split(manifest, source.root)
        for path in source.exclude:
            manifest, _ = exclude(manifest, read_exclusions(path), str(path))
        leaked = leaks(manifest, evaluation)
        if len(leaked):
            problems.append(
                f"{len(leaked)} clips of {source.dataset} {source.split} come from recordings of the evaluation set, "
                f"the first is {leaked['file_name'].iloc[0]!r}; name a list of ids in `exclude` that removes them."
            )
    return list(dict.fromkeys(problems))
