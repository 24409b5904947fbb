"""Events as targets on the grid of 64 ms frames, masks and aliases of DESED and MAESTRO."""

import numpy as np
import pandas as pd
import pytest

from common.errors import UserError
from common.settings import SettingsError, parse_settings
from task4_sed.data.targets import EventTargets, frame_span, valid_classes
from task4_sed.labels import CLASSES, DESED_CLASSES, MAESTRO_CLASSES, MAESTRO_EVALUATED, NUM_FRAMES, LabelSettings


def events(*rows, soft=False) -> pd.DataFrame:
    columns = ["clip", "onset", "offset", "event_label"] + ["confidence"] * soft
    return pd.DataFrame([list(row) for row in rows], columns=columns)


def targets(table, domain="desed", clips=1, crop=None, **settings):
    made = EventTargets(clips, table, domain, LabelSettings(**settings))
    return made.gather(np.arange(clips), None if crop is None else np.array(crop))


def active(strong: np.ndarray, name: str, clip: int = 0) -> list[int]:
    return np.flatnonzero(strong[clip, CLASSES.index(name)]).tolist()


def test_the_classes_are_those_of_the_challenge():
    assert len(CLASSES) == 27
    assert len(MAESTRO_EVALUATED) == 11
    assert set(MAESTRO_EVALUATED) <= set(MAESTRO_CLASSES)
    assert NUM_FRAMES == 156


def test_an_onset_goes_down_and_an_offset_up_to_a_frame_of_64_ms():
    first, last = frame_span(np.array([0.0, 0.05, 0.064, 9.9]), np.array([0.064, 0.07, 0.128, 12.0]))
    assert first.tolist() == [0, 0, 1, 154]
    assert last.tolist() == [1, 2, 2, 156]


def test_every_event_lights_the_frames_that_it_touches():
    strong = targets(events((0, 1.0, 2.0, "Dog"), (0, 0.0, 0.03, "Cat"))).strong
    assert active(strong, "Dog") == list(range(15, 32))  # 1 / 0.064 = 15.6, 2 / 0.064 = 31.25
    assert active(strong, "Cat") == [0]
    assert strong.sum() == 18


def test_overlapping_confidences_of_a_class_give_the_larger_or_as_published_the_last():
    table = events((0, 0, 1, "people talking", 0.8), (0, 0, 1, "children voices", 0.2), soft=True)
    speech = CLASSES.index("Speech")
    assert targets(table, "maestro").strong[0, speech, 3] == pytest.approx(0.8)
    assert targets(table, "maestro", overlap="last").strong[0, speech, 3] == pytest.approx(0.2)


def test_neighbouring_seconds_share_a_frame_and_the_larger_confidence_wins_there():
    table = events((0, 0, 1, "car", 0.9), (0, 1, 2, "car", 0.1), soft=True)
    car = CLASSES.index("car")
    assert targets(table, "maestro").strong[0, car, [14, 15, 16]] == pytest.approx([0.9, 0.9, 0.1])
    assert targets(table, "maestro", overlap="last").strong[0, car, [14, 15, 16]] == pytest.approx([0.9, 0.1, 0.1])


def test_maestro_labels_also_teach_speech_and_dishes():
    table = events((0, 0, 1, "announcement", 0.5), (0, 0, 1, "cutlery and dishes", 0.4), soft=True)
    both = targets(table, "maestro").strong[0, :, 0]
    assert {CLASSES[index] for index in np.flatnonzero(both)} == {
        "announcement", "Speech", "cutlery and dishes", "Dishes"
    }  # fmt: skip
    alone = targets(table, "maestro", maestro_to_desed=False).strong[0, :, 0]
    assert {CLASSES[index] for index in np.flatnonzero(alone)} == {"announcement", "cutlery and dishes"}


def test_desed_labels_teach_maestro_classes_when_asked():
    table = events((0, 0, 1, "Speech"), (0, 2, 3, "Dishes"))
    assert targets(table).strong.sum() == targets(table).strong[:, :10].sum()
    strong = targets(table, desed_to_maestro=True).strong
    assert active(strong, "people talking") == active(strong, "Speech")
    assert active(strong, "cutlery and dishes") == active(strong, "Dishes")


def test_a_clip_says_something_of_the_classes_of_its_data_set():
    def names(domain, **settings):
        mask = valid_classes(domain, LabelSettings(**settings))
        return {name for name, valid in zip(CLASSES, mask) if valid}

    assert names("desed") == set(DESED_CLASSES)
    assert names("desed", desed_to_maestro=True) == set(DESED_CLASSES) | {"people talking", "cutlery and dishes"}
    assert names("maestro") == set(MAESTRO_CLASSES) | {"Speech", "Dishes"}
    assert names("maestro", dog_in_maestro=True) == set(MAESTRO_CLASSES) | {"Speech", "Dishes", "Dog"}
    assert names("maestro", maestro_to_desed=False) == set(MAESTRO_CLASSES)


def test_weak_labels_have_no_time():
    table = events((0, np.nan, np.nan, "Dog"), (1, np.nan, np.nan, "Cat"), (1, np.nan, np.nan, "Dog"))
    found = targets(table, clips=2)
    assert found.strong.sum() == 0
    assert found.weak.sum(axis=1).tolist() == [1, 2]
    assert found.weak[0, CLASSES.index("Dog")] == 1


def test_labels_move_with_the_crop_of_a_long_clip():
    table = events((0, 1.0, 2.0, "Dog"), (0, 10.5, 11.0, "Cat"))
    strong = targets(table, crop=[1.0]).strong
    assert active(strong, "Dog") == list(range(16))  # 0 to 1 s
    assert active(strong, "Cat") == list(range(148, 156))  # 9.5 to 10 s; 9.5 / 0.064 = 148.4


def test_a_batch_has_the_events_of_its_clips_in_its_order():
    table = events((2, 0, 1, "Cat"), (0, 0, 1, "Dog"), (2, 5, 6, "Dog"))
    made = EventTargets(3, table, "desed", LabelSettings())
    found = made.gather(np.array([2, 1, 0, 2]))
    assert [active(found.strong, "Cat", clip) != [] for clip in range(4)] == [True, False, False, True]
    assert [active(found.strong, "Dog", clip) != [] for clip in range(4)] == [True, False, True, True]


def test_a_batch_equals_row_by_row_encoding():
    random = np.random.default_rng(0)
    rows = []
    for clip in range(20):
        for _ in range(random.integers(0, 9)):
            onset = random.uniform(0, 9)
            label = MAESTRO_CLASSES[random.integers(17)]
            rows.append((clip, onset, onset + random.uniform(0.1, 2), label, random.uniform(0.1, 1)))
    table = events(*rows, soft=True)
    for overlap in ("maximum", "last"):
        expected = np.zeros((20, 27, 156))
        for clip, onset, offset, label, confidence in rows:
            begin, end = int(np.floor(onset / 0.064)), min(156, int(np.ceil(offset / 0.064)))
            cells = expected[clip, CLASSES.index(label), begin:end]
            cells[:] = np.maximum(cells, confidence) if overlap == "maximum" else confidence
        found = targets(table, "maestro", clips=20, overlap=overlap, maestro_to_desed=False)
        np.testing.assert_allclose(found.strong, expected, atol=1e-6)


def test_classes_of_own_data_count_as_those_of_desed():
    found = targets(events((0, 0, 1, "keyboard")), classes=["keyboard", "phone"])
    assert found.strong.shape == (1, 2, 156)
    assert found.valid.all()
    assert found.strong[0, 0].sum() == 16


def test_a_system_for_desed_alone_leaves_maestro_labels_out():
    found = targets(events((0, 0, 1, "people talking", 0.7), soft=True), "maestro", classes=list(DESED_CLASSES))
    assert found.strong[0, DESED_CLASSES.index("Speech"), 0] == pytest.approx(0.7)
    assert found.valid.sum() == 2


def test_an_unknown_label_is_told_with_the_nearest_class():
    with pytest.raises(UserError, match=r"No class named Dogg\. Near it: Dog"):
        targets(events((0, 0, 1, "Dogg")))


def test_a_class_named_twice_is_refused():
    with pytest.raises(SettingsError, match="Dog is named twice"):
        parse_settings(LabelSettings, {"classes": ["Dog", "Cat", "Dog"]})


def test_an_event_before_the_crop_teaches_nothing():
    first, last = frame_span(np.array([-3.0, -0.5, 11.0]), np.array([-1.0, 0.03, 12.0]))
    assert (first.tolist(), last.tolist()) == ([0, 0, 156], [0, 1, 156])
    found = targets(events((0, 1.0, 3.0, "Speech"), (0, 4.0, 6.0, "Dog")), crop=[4.0])
    assert active(found.strong, "Speech") == []
    assert active(found.strong, "Dog")[0] == 0
    assert found.weak[0, CLASSES.index("Speech")] == 0
    assert found.weak[0, CLASSES.index("Dog")] == 1


@pytest.mark.filterwarnings("error")
def test_targets_are_in_single_precision_and_weak_labels_give_no_warning():
    found = targets(events((0, np.nan, np.nan, "Dog")))
    assert (found.strong.dtype, found.weak.dtype, found.valid.dtype) == (np.float32, np.float32, bool)
    assert found.weak.sum() == 1 and found.strong.sum() == 0
