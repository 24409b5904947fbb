"""The HEAR functions against their definition, written one window at a time."""

import pytest
import torch
import torch.nn.functional as F

from common.errors import UserError
from common.inference import hear
from common.inference.hear_names import LIKE_PUBLISHED, PASST, parse_name
from common.registry import load_released_state_dict
from common.registry.models import create_audio_model
from tests.support.golden_case import GoldenCase, relative_error

PUBLISHED_SIZES = {
    "mn01_all_b_mel_avgs": 184,
    "mn02_all_b_mel_avgs": 224,
    "mn04_all_b_mel_avgs": 320,
    "mn05_all_b_mel_avgs": 368,
    "mn10_all_b_mel_avgs": 600,
    "mn20_all_b_mel_avgs": 1072,
    "mn10_all_b": 472,
    "mn10_all_se": 560,
    "mn10_all_b_all_se": 1032,
    "mn10_all_b_clf1": 1432,
    "mn10_all_b_clf2": 1752,
    "mn10_all_b_logits": 999,
    "mn10_clf1": 960,
    "mn10_clf2": 1280,
    "mn10_logits": 527,
    "mn10_mel_avgs": 128,
    "mn10_b5_11_15": 312,
    "mn10_all_b_mel_avgs_cat_avg_max_ch_pool": 1072,
    "mn10_all_b_avg_time_pool": 2816,
    "mn10_all_b_mel_avgs_hop15": 600,
    "mn10_all_b_mel_avgs_mels40": 512,
    "mn10_all_b_mel_avgs_mels64": 536,
    "mn10_all_b_mel_avgs_mels256": 728,
    "mn10_all_b_mel_avgs_fc": 600,
    "dymn04_all_b_mel_avgs": 320,
}


def made(name, **options):
    """A HEAR model with random weights."""
    torch.manual_seed(0)
    return hear.HearModel(create_audio_model(parse_name(name).model, **options).eval(), parse_name(name))


@pytest.fixture(scope="module")
def mn04():
    return made("mn04_all_b_mel_avgs")


def one_by_one(audio, embed, window, hop):
    """Timestamp embeddings as the official wrappers compute them: reflect, unfold, one forward pass per window."""
    padded = F.pad(audio.unsqueeze(1), (window // 2, window // 2), mode="reflect").squeeze(1)
    with torch.inference_mode():
        return torch.stack([embed(segment) for segment in padded.unfold(1, window, hop).unbind(1)], dim=1)


@pytest.mark.parametrize(("name", "size"), PUBLISHED_SIZES.items())
def test_sizes_are_those_that_the_authors_publish(name, size):
    model = made(name)
    assert (model.scene_embedding_size, model.timestamp_embedding_size) == (size, size)


@pytest.mark.parametrize(
    ("module", "scene", "timestamp"),
    [
        ("base", 1295, 1295),
        ("base2level", 1295, 2590),
        ("base2levelmel", 1295, 3358),
        ("hop160base2lvlmel", 1295, 3358),
    ],
)
def test_passt_modules_have_the_published_sizes(module, scene, timestamp):
    torch.manual_seed(0)
    model = made(f"passt_{module}", depth=1)
    assert (model.scene_embedding_size, model.timestamp_embedding_size) == (scene, timestamp)
    embeddings, times = hear.get_timestamp_embeddings(torch.randn(1, 16000) / 10, model)
    assert embeddings.shape == (1, 11, timestamp) and times[0].tolist() == [50.0 * i for i in range(11)]


def test_every_published_name_is_understood():
    assert all(parse_name(name).parts for name in LIKE_PUBLISHED)
    assert all(parse_name(f"passt_{module}").levels for module in PASST)


def test_a_name_says_parts_in_the_official_order_and_its_weights():
    parsed = parse_name("mn10_b15_se5_logits_mel_avgs_hop20")
    assert parsed.parts == ("mel_avgs", "logits", "se5", "b15")
    assert parsed.model == "mn10.as_hop_20"
    assert parse_name("mn40_ext_all_b_mel_avgs").model == "mn40.as_ext"
    assert parse_name("mn10_all_b_mel_avgs_ts320").levels[0].window == 0.32


def test_an_unknown_name_is_answered_with_those_near_it():
    with pytest.raises(UserError, match="Near it: mn10_all_b_mel_avgs"):
        parse_name("mn10_all_b_mel_avg")
    with pytest.raises(UserError, match="No HEAR embedding named mn10_b11_hop17"):
        parse_name("mn10_b11_hop17")


def test_parts_are_what_the_layers_give():
    case = GoldenCase("mn10")
    model = create_audio_model("mn10.as").eval()
    load_released_state_dict(model, case.state_dict())
    waveform = case.waveform()
    with torch.inference_mode():
        output = model(waveform)
        spectrogram = model.front_end(waveform)
    names = {
        "mn10_clf1": output.embedding,
        "mn10_clf2": case.expected("hidden"),
        "mn10_logits": output.logits,
        "mn10_mel_avgs": spectrogram.mean(dim=(1, 3)),
    }
    for name, expected in names.items():
        embeddings = hear.get_scene_embeddings(waveform, hear.HearModel(model.eval(), parse_name(name)))
        assert relative_error(embeddings, expected) < 1e-4, name
    features = model.network.features
    with torch.inference_mode():
        squeezed = features[5].block[:2](features[:5](spectrogram)).mean(dim=(2, 3))
        expected = features[5].block[2].conc_se_layers[0].fc1(squeezed)
    assert (
        relative_error(
            hear.get_scene_embeddings(waveform, hear.HearModel(model.eval(), parse_name("mn10_se5"))), expected
        )
        < 1e-4
    )


def test_timestamps_are_those_of_one_window_at_a_time(mn04):
    audio = torch.randn(2, 32000) / 10
    embeddings, times = hear.get_timestamp_embeddings(audio, mn04)
    assert relative_error(embeddings, one_by_one(audio, mn04.features, 5120, 1600)) < 1e-4
    assert embeddings.shape == (2, 21, 320) and times[1].tolist() == [50.0 * index for index in range(21)]
    assert embeddings.dtype == times.dtype == torch.float32


def test_ten_seconds_have_201_timestamps_in_batches_of_windows(mn04):
    audio = torch.randn(1, 320000) / 10
    embeddings, times = hear.get_timestamp_embeddings(audio, mn04)
    assert embeddings.shape == (1, 201, 320) and float(times[0, -1]) == 10000.0
    with torch.inference_mode():
        alone = mn04.features(audio[:, 150 * 1600 - 2560 : 150 * 1600 + 2560])
    assert relative_error(embeddings[:, 150], alone) < 1e-4


def test_a_long_sound_is_the_mean_of_overlapping_ten_second_windows(mn04):
    audio = torch.randn(2, 13 * 32000) / 10
    expected = one_by_one(audio, mn04.features, 320000, 80000).mean(dim=1)
    scene = hear.get_scene_embeddings(audio, mn04)
    assert scene.dtype == torch.float32
    assert relative_error(scene, expected) < 1e-4


def test_a_short_sound_is_embedded_at_once(mn04):
    audio = torch.randn(3, 16000) / 10
    with torch.inference_mode():
        assert torch.equal(hear.get_scene_embeddings(audio, mn04), mn04.features(audio))


@pytest.mark.parametrize("samples", [1, 2, 700, 2560, 2561])
def test_a_sound_shorter_than_half_a_window_still_has_timestamps(mn04, samples):
    embeddings, times = hear.get_timestamp_embeddings(torch.randn(1, samples) / 10, mn04)
    assert embeddings.shape == (1, samples // 1600 + 1, 320) == (*times.shape, 320)
    assert embeddings.isfinite().all()
    assert hear.get_scene_embeddings(torch.randn(1, samples) / 10, mn04).isfinite().all()


def test_reflection_goes_on_beyond_one_length():
    assert hear._reflected(torch.arange(-4, 7), 3).tolist() == [0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2]


def test_a_window_of_640_ms_is_640_ms_long():
    model = made("mn04_all_b_mel_avgs")
    assert model._window(parse_name("mn10_all_b_mel_avgs_ts640").levels[0]) == 20480


def test_released_weights_load_from_their_file(shared):
    file = shared / "data" / "weights" / "mn04_as_mAP_432.pt"
    model = hear.load_model(file, "mn04_all_b_mel_avgs")
    assert hear.get_scene_embeddings(torch.zeros(1, 32000), model).shape == (1, 320)
    with pytest.raises(UserError):
        hear.load_model(file, "mn10_all_b_mel_avgs")


def test_a_layer_that_the_network_lacks_is_told():
    with pytest.raises(UserError, match="no se3"):
        made("mn04_se3")
    with pytest.raises(UserError, match="another head"):
        made("mn10_clf2_fc")
