"""CP-Mobile and CP-ResNet: the official values, sizes and counts."""

import pytest
import torch

from common.inference.complexity import measure
from common.models.cp_mobile import GlobalResponseNorm
from common.registry import load_released_state_dict
from common.registry.models import create_audio_model, create_model
from tests.support.golden_case import GoldenCase, relative_error

TOLERANCE = 1e-4  # relative to the spread


@pytest.fixture(scope="module", params=["task1_baseline", "cp_resnet"])
def loaded(request):
    """A case and our model with its weights."""
    case = GoldenCase(request.param)
    model = create_audio_model(request.param)
    load_released_state_dict(model, case.state_dict())
    return case, model.eval().requires_grad_(False)


def test_logits_are_the_official_ones_from_the_waveform_and_from_the_stored_mel(loaded):
    case, model = loaded
    assert relative_error(model(case.waveform()).logits, case.expected("logits")) < TOLERANCE
    assert relative_error(model.network(case.expected("mel")).logits, case.expected("logits")) < TOLERANCE


def test_inner_maps_are_the_official_ones(loaded):
    case, model = loaded
    network = model.network
    stem = network.in_c(case.expected("mel"))
    if case.name == "task1_baseline":
        assert relative_error(stem[:, ::2, ::4], case.expected("stem")) < TOLERANCE
        assert relative_error(network.stages(stem), case.expected("embedding")) < TOLERANCE
    else:
        assert relative_error(network.stage1(stem)[:, ::8], case.expected("stage1")) < TOLERANCE
        embedding = network(case.expected("mel")).embedding
        assert relative_error(embedding, case.expected("embedding")) < TOLERANCE


@torch.no_grad()
def test_half_precision_gives_the_logits_of_the_baseline_loosely():
    case = GoldenCase("task1_baseline")
    model = create_audio_model("task1_baseline")
    load_released_state_dict(model, case.state_dict())
    logits = model.eval().network.half()(case.expected("mel").half()).logits
    assert relative_error(logits.float(), case.expected("logits_half").float()) < 2e-2


def test_parameters_and_macs_are_the_official_ones(loaded):
    case, model = loaded
    figures = measure(model.network, case.info["macs_input_shape"])
    assert (figures.parameters, figures.challenge_macs) == (case.info["num_parameters"], case.info["macs"])


@pytest.mark.parametrize(
    ("name", "options", "frames", "parameters", "macs"),
    [
        ("task1_baseline", {"base_channels": 8}, 65, 5_722, 2.49e6),
        ("task1_baseline", {"base_channels": 16}, 65, 18_624, 8.45e6),
        ("task1_baseline", {"base_channels": 24}, 65, 35_062, 16.86e6),
        ("task1_baseline", {"base_channels": 40}, 65, 97_666, 47.95e6),
        ("task1_baseline", {"channels_multiplier": 2.3, "expansion_rate": 3.0}, 65, 126_940, 53.2e6),
        ("task1_baseline", {}, 64, 61_148, 26_954_388),
        ("task1_baseline", {}, 66, 61_148, 29_419_156),
        ("cp_mobile", {}, 64, 126_952, 28_893_268),
        ("cp_mobile", {"base_channels": 8}, 64, 13_942, 2.69e6),
        ("cp_mobile", {"base_channels": 16}, 64, 39_868, 8.43e6),
        ("cp_mobile", {"base_channels": 24}, 64, 77_314, 17.14e6),
        ("cp_resnet_128k", {}, 43, 127_684, 28.8e6),
    ],
)
def test_every_width_has_the_published_size(name, options, frames, parameters, macs):
    figures = measure(create_model(name, **options), (1, 1, 256, frames))
    assert figures.parameters == parameters
    assert figures.challenge_macs == (macs if isinstance(macs, int) else pytest.approx(macs, rel=2e-3))


def test_response_norm_is_an_identity_at_the_start_and_favours_strong_channels_later():
    norm = GlobalResponseNorm()
    maps = torch.ones(1, 2, 3, 4)
    maps[:, 1] = 3.0
    assert torch.equal(norm(maps), maps)
    with torch.no_grad():
        norm.gamma.fill_(1.0)
        norm.beta.fill_(0.5)
    # Energies 1 and 3 times the same number: relative to their mean 0.5 and 1.5.
    changed = norm(maps)[0, :, 0, 0]
    assert changed.tolist() == pytest.approx([1 * 0.5 + 0.5 + 1, 3 * 1.5 + 0.5 + 3], abs=1e-5)


def test_new_blocks_of_cp_resnet_do_nothing():
    network = create_model("cp_resnet").eval()
    maps = torch.rand(1, 128, 4, 4)
    assert torch.equal(network.stage1.block2(maps), maps)
    assert not network(torch.rand(1, 1, 32, 22)).logits.any()


def test_the_receptive_field_decides_which_convolutions_are_3x3():
    def kernels(rho: int) -> list[int]:
        blocks = (module for module in create_model("cp_resnet", rho=rho).modules() if hasattr(module, "conv2"))
        return [size for block in blocks for size in (block.conv1.kernel_size[0], block.conv2.kernel_size[0])]

    assert kernels(7) == [3, 1, 3, 3, 3, 3, 3, 3, 3, 1] + [1] * 14  # the lists of the official options
    assert kernels(0) == [3, 1] + [1] * 22
    assert kernels(9) == [3, 1] + [3] * 9 + [1] * 13


def test_every_parameter_gets_a_gradient():
    for name in ("task1_baseline", "cp_mobile", "cp_resnet", "cp_resnet_128k"):
        network = create_model(name)
        network(torch.rand(2, 1, 32, 22)).logits.square().sum().backward()
        missing = [key for key, parameter in network.named_parameters() if parameter.grad is None]
        assert not missing, f"{name}: {missing}"


@pytest.mark.parametrize("name", ["task1_baseline", "cp_mobile", "cp_resnet_128k"])
def test_relus_that_overwrite_their_input_change_no_bit_of_a_training_step(name):
    def step(overwrite: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        network = create_model(name)
        relus = [module for module in network.modules() if isinstance(module, torch.nn.ReLU)]
        assert relus and all(relu.inplace for relu in relus)
        for relu in relus:
            relu.inplace = overwrite
        logits = network(torch.rand(2, 1, 32, 22)).logits
        logits.square().sum().backward()
        return [logits, *network.state_dict().values(), *(weights.grad for weights in network.parameters())]

    assert all(torch.equal(one, other) for one, other in zip(step(True), step(False), strict=True))
