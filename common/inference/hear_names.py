"""Parser of HEAR embedding names, such as mn10_all_b_mel_avgs or passt_base2levelmel."""

import re
from dataclasses import dataclass

from common.errors import UserError, unknown
from common.registry.models import read_table

BLOCKS = (5, 11, 13, 15)  # of all_b and all_se
POOLINGS = {  # of the maps of a block; the longest names first, so that no name hides in another
    "cat_avg_max_ch_pool": "cat_avg_max",
    "add_avg_max_ch_pool": "add_avg_max",
    "avg_max_time_pool": "avg_max_time",
    "avg_time_pool": "avg_time",
    "max_ch_pool": "max",
    "avg_ch_pool": "avg",
}
LIKE_PUBLISHED = (  # shown when a name is not understood; the recommended one first
    *("mn10_all_b_mel_avgs", "mn04_all_b_mel_avgs", "mn10_all_b", "mn10_all_se", "mn10_all_b_all_se", "mn10_b11"),
    *("mn10_b5_11_15", "mn10_clf1", "mn10_clf2", "mn10_logits", "mn10_mel_avgs", "mn10_all_b_mel_avgs_hop15"),
    *("mn10_all_b_mel_avgs_mels40", "mn10_all_b_mel_avgs_fc", "mn10_all_b_mel_avgs_ts640", "dymn10_all_b_mel_avgs"),
    *("mn10_all_b_max_ch_pool", "mn10_all_b_avg_time_pool", "mn40_ext_all_b_mel_avgs"),
)


@dataclass(frozen=True)
class Level:
    """A window around a timestamp: seconds of the embedded window, or 0 and the samples of a spectrogram."""

    window: float
    samples: int = 0


@dataclass(frozen=True)
class HearName:
    """An embedding: the model, its parts in the order in which they are joined, and the windows.

    scene_window, scene_hop: seconds; longer clips are averaged over windows.
    levels: of a timestamp; the first also gives the timestamps.
    """

    model: str
    parts: tuple[str, ...]
    pooling: str = "avg"
    scene_window: float = 10.0
    scene_hop: float = 2.5
    levels: tuple[Level, ...] = (Level(0.16),)


PASST = {
    "base": ("passt_s_swa.as", 10.0, 2.5, (Level(0.16),)),
    "base2level": ("passt_s_swa.as", 10.0, 2.5, (Level(0.16), Level(0.8))),
    # Four windows long, not five as the other second levels.
    "base2levelmel": ("passt_s_swa.as", 10.0, 2.5, (Level(0.16), Level(0.64), Level(0.0, 1920))),
    "hop100base": ("passt_s_swa.stfthop100", 10.0, 2.5, (Level(0.16),)),
    "hop100base2lvl": ("passt_s_swa.stfthop100", 10.0, 2.5, (Level(0.16), Level(0.8))),
    "hop100base2lvlmel": ("passt_s_swa.stfthop100", 10.0, 2.5, (Level(0.16), Level(0.8), Level(0.0, 600))),
    "hop160base": ("passt_s_swa.stfthop160", 10.0, 2.5, (Level(0.16),)),
    "hop160base2lvl": ("passt_s_swa.stfthop160", 10.0, 2.5, (Level(0.16), Level(0.8))),
    "hop160base2lvlmel": ("passt_s_swa.stfthop160", 10.0, 2.5, (Level(0.16), Level(0.8), Level(0.0, 960))),
    "base20sec": ("passt_20sec.as", 20.0, 5.0, (Level(0.16),)),
    "base30sec": ("passt_30sec.as", 30.0, 10.0, (Level(0.16),)),
    "openmic2008": ("passt_s.openmic", 10.0, 2.5, (Level(0.16),)),
}
PASST_PARTS = {"all": ("logits", "embedding"), "embed_only": ("embedding",), "logits": ("logits",)}


def parse_name(name: str, mode: str = "all") -> HearName:
    """Parse a module name of EfficientAT_HEAR or (with `passt_` before it) of hear21passt.

    A name is `mnXX` or `dymnXX`, then any of all_b, all_se, bN, seN (more numbers may follow: b5_11_15), clf1, clf2,
    logits, mel_avgs, one pooling (max_ch_pool, avg_time_pool, ...), one of hopN, melsN, fc, ext, and tsN for a
    timestamp window of N ms. The mode is of PaSST: all (logits and embedding), embed_only, logits.
    """
    module = name.removeprefix("passt_").removeprefix("hear21passt.")
    if name.startswith(("passt_", "hear21passt.")) and module in PASST:
        if mode not in PASST_PARTS:
            raise UserError(f"mode is all, embed_only or logits, not {mode}.")
        model, window, hop, levels = PASST[module]
        return HearName(model, PASST_PARTS[mode], scene_window=window, scene_hop=hop, levels=levels)
    if (parsed := _parse_mobilenet(name)) is None:
        raise unknown("HEAR embedding", name, [*LIKE_PUBLISHED, *(f"passt_{module}" for module in PASST)])
    return parsed


def _parse_mobilenet(name: str) -> HearName | None:
    head = re.fullmatch(r"((?:dy)?mn\d\d)(?:_as)?_(.+)", name)
    if head is None:
        return None
    architecture, rest = head.groups()
    pooling = "avg"
    for ending, kind in POOLINGS.items():
        if rest.endswith(f"_{ending}"):
            pooling, rest = kind, rest.removesuffix(f"_{ending}")
            break
    variant, window = "as", 0.16
    parts: set[str] = set()
    words = re.findall(r"all_b|all_se|mel_avgs|se\d+|b\d+|clf\d|logits|hop\d+|mels\d+|fc|ext|ts\d+|\d+|[^_]+", rest)
    kind = ""
    for word in words:
        if word in ("all_b", "all_se"):
            parts |= {f"{word.removeprefix('all_')}{number}" for number in BLOCKS}
        elif block := re.fullmatch(r"(se|b)?(\d+)", word):
            kind = block.group(1) or kind
            parts.add(f"{kind}{block.group(2)}")
        elif word in ("mel_avgs", "clf1", "clf2", "logits"):
            parts.add(word)
        elif number := re.fullmatch(r"(hop|mels)(\d+)", word):
            variant = f"as_{number.group(1)}_{number.group(2)}"
        elif word in ("fc", "ext"):
            variant = f"as_{word}"
        elif stretch := re.fullmatch(r"ts(\d+)", word):
            window = int(stretch.group(1)) / 1000
        else:
            return None
    model = f"{architecture}.{variant}"
    known = all(re.fullmatch(r"(b|se)\d+|mel_avgs|clf1|clf2|logits", part) for part in parts)
    if not parts or not known or model not in read_table().released:
        return None
    # Mel averages, classifier, squeeze and excitation, blocks.
    fixed = {"mel_avgs": 1, "clf1": 2, "clf2": 3, "logits": 4}
    ordered = sorted(parts, key=lambda part: fixed.get(part) or int(part.lstrip("seb")) + 100 * (1 + (part[0] == "b")))
    return HearName(model, tuple(ordered), pooling, levels=(Level(window),))
