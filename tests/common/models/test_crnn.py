"""The DESED CRNN against what the official code computes, with and without the mask of valid classes."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from common.errors import UserError
from common.models.crnn import Crnn, desed_crnn, mask_time, recipe_options
from common.models.frame_prediction import resize_time
from common.registry import load_released_state_dict
from common.registry.models import create_audio_model, create_model
from tests.support.frame_model_case import layout_differences
from tests.support.golden_case import GoldenCase, drawn_tensor, relative_error

CASE = GoldenCase("desed_crnn_2024")


@pytest.fixture(scope="module")
def outputs() -> dict[str, torch.Tensor]:
    """All that the fixture holds, computed by our model with the official weights."""
    model = create_audio_model("desed_crnn_2024").eval()
    load_released_state_dict(model, CASE.state_dict())
    made = CASE.info["input"]["embeddings"]
    embeddings = made["multiply_by"] * torch.from_numpy(drawn_tensor(made["name"], tuple(made["shape"])))
    mask = torch.zeros(2, 27, dtype=torch.bool)
    mask[0, :10] = True
    mask[1, 10:] = True
    mask[1, [3, 8]] = True
    network = model.network
    with torch.inference_mode():
        spectrogram = model.front_end(CASE.waveform())
        features = network.cnn(spectrogram.mT).squeeze(-1)
        output = network(spectrogram, embeddings)
        strong, weak = network.predict(spectrogram, embeddings)
        strong_masked, weak_masked = network.predict(spectrogram, embeddings, mask)
        fused = network.fuse(features.mT, embeddings)
    return {
        "scaled": spectrogram[:, 0, ::4, ::4],
        "cnn": features[..., ::4],
        "fused": fused[:, ::4],
        "rnn": output.frames[:, ::4],
        "strong": strong,
        "weak": weak,
        "strong_masked": strong_masked[..., ::2],
        "weak_masked": weak_masked,
        "output": output,
        "mask": mask,
    }


def test_names_shapes_and_parameter_counts_are_the_official_ones():
    assert layout_differences("desed_crnn_2024") == []


@pytest.mark.parametrize("part", [name for name in CASE.info["outputs"] if name != "log_mel"])
def test_every_step_computes_what_the_official_code_does(outputs, part):
    assert relative_error(outputs[part], CASE.expected(part)) < 1e-4


def test_classes_that_are_not_valid_get_a_probability_of_zero(outputs):
    assert (outputs["weak_masked"][~outputs["mask"]] == 0).all()
    assert (outputs["strong_masked"].mT[(~outputs["mask"])[:, None].expand(-1, 78, -1)] == 0).all()


def test_the_output_is_before_the_sigmoid(outputs):
    output = outputs["output"]
    assert output.frame_logits.shape == (2, 156, 27)
    assert torch.equal(output.frame_logits.sigmoid().mT, outputs["strong"])
    assert torch.equal(output.logits.sigmoid(), outputs["weak"])
    assert torch.allclose(output.embedding, output.frames.mean(dim=1))


def test_the_networks_of_2023_have_their_published_sizes():
    def millions(network: torch.nn.Module) -> float:
        return round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 3)

    assert millions(create_model("desed_crnn_2023")) == 1.112
    assert millions(create_model("desed_crnn_2023", embedding_dim=768)) == 1.227


def test_the_whole_net_section_of_the_official_recipe_is_understood():
    constructor = CASE.info["constructor"]
    assert constructor["rnn_layers"] == 1  # has no effect in the official code, which builds two layers
    network = desed_crnn(**constructor)
    assert sum(parameter.numel() for parameter in network.parameters()) == CASE.info["num_parameters"]
    assert network.dropstep == 0.3 and network.dropstep_frames == 16
    with pytest.raises(UserError, match=r"net\.specaugm_t_p is 0\.2"):
        recipe_options({**constructor, "specaugm_t_p": 0.2})
    with pytest.raises(UserError, match=r"net\.colour is not a setting"):
        recipe_options({**constructor, "colour": "red"})


def narrow(**options) -> Crnn:
    torch.manual_seed(0)
    return Crnn(5, filters=(4,) * 7, rnn_dim=6, **{"embedding_dim": 8, **options})


def test_missing_or_unexpected_embeddings_are_an_error():
    spectrogram = torch.randn(2, 1, 128, 626)
    with pytest.raises(UserError, match=r"needs embeddings \(batch, 8, tokens\) beside the spectrogram, found none"):
        narrow()(spectrogram)
    with pytest.raises(UserError, match=r"found shape \(2, 9, 496\)"):
        narrow()(spectrogram, torch.randn(2, 9, 496))
    with pytest.raises(UserError, match="reads no embeddings"):
        narrow(embedding_dim=None)(spectrogram, torch.randn(2, 8, 496))


def test_exact_aggregation_means_the_bands_and_keeps_their_time():
    network, bands = narrow(aggregation="exact"), torch.randn(1, 8, 62, 8)
    frames = network._at_frames(bands.flatten(2), 156)[0]
    steps = bands[0].mean(dim=-1).T
    assert torch.allclose(frames[0], steps[0])  # held before the first step's centre
    share = (100 * 0.064 + 0.024 - (39 * 0.16 + 0.0875)) / 0.16  # frame 100 lies between steps 39 and 40
    assert 0 < share < 1
    assert torch.allclose(frames[100], (1 - share) * steps[39] + share * steps[40], atol=1e-4)


def test_nearest_aggregation_picks_tokens_and_adaptive_aggregation_averages_them():
    tokens = torch.arange(496.0).expand(1, 8, 496)
    nearest = narrow(aggregation="nearest")._at_frames(tokens, 156)[0, :, 0]
    assert nearest.tolist() == [int((frame + 0.5) * 496 / 156) for frame in range(156)]
    adaptive = narrow()._at_frames(tokens, 156)[0, :, 0]
    start, stop = 7 * 496 // 156, -(-8 * 496 // 156)
    assert adaptive[7] == pytest.approx((start + stop - 1) / 2)


def test_context_gating_scales_the_input_by_a_sigmoid_of_a_linear_map():
    gate = narrow(gate="cg").cnn[0].gate
    maps = torch.randn(1, 4, 2, 3)
    linear = torch.einsum("oc,bcth->both", gate.linear.weight, maps) + gate.linear.bias[:, None, None]
    assert torch.allclose(gate(maps), maps * linear.sigmoid(), atol=1e-6)


def test_time_masks_are_one_stretch_in_each_item_and_keep_their_bound():
    torch.manual_seed(0)
    masked = (mask_time(torch.ones(2000, 156, 3), 16, 0.3) == 0).all(dim=-1)
    widths = masked.sum(dim=1)
    assert widths.max() == 15 and widths.min() == 0
    edges = (masked[:, 1:] != masked[:, :-1]).sum(dim=1) + masked[:, 0] + masked[:, -1]
    assert edges.max() == 2
    assert masked[:, :-1].any(dim=0).all() and not masked[:, -1].any()  # every frame but the last, as published
    short = (mask_time(torch.ones(2000, 20, 1), 16, 0.3) == 0).sum(dim=1)
    assert short.max() == 5  # below 0.3 * 20


def test_masking_happens_in_training_only_and_in_both_streams_apart():
    network = narrow(dropout=0.0, dropstep=1.0)
    features, embeddings = torch.ones(64, 156, 4), torch.ones(64, 8, 496)
    seen = []
    network.fusion.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0] == 0))
    network.train().fuse(features, embeddings)
    network.eval().fuse(features, embeddings)
    from_cnn, from_embeddings = seen[0][..., 0], seen[0][..., 4]
    assert from_cnn.any() and from_embeddings.any() and not torch.equal(from_cnn, from_embeddings)
    assert not seen[1].any()


def test_every_parameter_gets_a_gradient():
    network = narrow().train()
    output = network(torch.randn(2, 1, 128, 626), torch.randn(2, 8, 496), torch.tensor([[True] * 4 + [False]] * 2))
    (output.logits.sum() + output.frame_logits.sum()).backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_train_and_eval_return_the_network():
    network = narrow()
    assert network.eval() is network and network.train() is network


class OnGpu(torch.Tensor):
    """A tensor of the processor that says that it is on a GPU."""

    is_cuda = True


@pytest.mark.parametrize(
    "resize", [partial(F.adaptive_avg_pool1d, output_size=156), partial(F.interpolate, size=600, mode="linear")]
)
def test_on_a_gpu_time_is_resized_by_a_matrix_product(resize):
    sequence = torch.randn(2, 5, 496, generator=torch.Generator().manual_seed(0))
    resized = resize_time(resize, sequence.as_subclass(OnGpu)).as_subclass(torch.Tensor)
    torch.testing.assert_close(resized, resize(sequence), atol=1e-6, rtol=0)
    assert torch.equal(resize_time(resize, sequence), resize(sequence))
