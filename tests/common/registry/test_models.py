"""The table of models: every name can be built as documented, and unknown names get the nearest."""

import pytest
import torch
from torch import Tensor

from common.data.labels import label_set
from common.errors import UserError
from common.registry import list_models, load_audio_model
from common.registry.models import (
    Architecture,
    create_audio_model,
    create_front_end,
    create_model,
    find_architecture,
    read_table,
)

ARCHITECTURES = list(read_table().architectures)


def large(name: str) -> bool:
    """Networks of which a step takes seconds."""
    return find_architecture(name).parameters > 6_000_000


def create_labels(name: str) -> tuple[str, ...]:
    return label_set(find_architecture(name).labels)


def other_inputs(architecture: Architecture, batch: int) -> dict[str, Tensor]:
    return {name: torch.rand(batch, *shape) for name, shape in architecture.also_reads.items()}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_gives_the_documented_shapes_and_every_parameter_a_gradient(name):
    """On the meta device: autograd runs, numbers do not."""
    architecture, labels = find_architecture(name), create_labels(name)
    with torch.device("meta"):
        network = create_model(name)
    front_end = create_front_end(name)
    spectrogram = front_end(torch.zeros(2, round(0.5 * front_end.sample_rate))).to("meta")
    others = {key: value.to("meta") for key, value in other_inputs(architecture, 2).items()}
    output = network(spectrogram, **others)
    assert output.logits.shape == (2, len(labels))
    assert output.embedding.ndim == 2 and len(output.embedding) == 2
    if architecture.windows.get("frame"):
        assert output.frame_logits.shape == (*output.frames.shape[:2], len(labels))
    sum(part.square().mean() for part in output if part is not None).backward()
    unused = {key for module in network.modules() for key in getattr(module, "unused_parameters", ())}
    for key, parameter in network.named_parameters():
        if parameter.requires_grad and not any(key.endswith(name) for name in unused):
            assert parameter.grad is not None, key


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * large(name)) for name in ARCHITECTURES])
def test_random_weights_give_finite_scores_and_gradients(name):
    torch.manual_seed(0)
    model = create_audio_model(name)
    with torch.no_grad():
        spectrogram = model.front_end(0.1 * torch.randn(2, round(0.3 * model.sample_rate)))
    output = model.network(spectrogram, **other_inputs(find_architecture(name), 2))
    parts = [part for part in output if part is not None]
    assert all(part.isfinite().all() for part in parts)
    sum(part.square().mean() for part in parts).backward()
    gradients = [parameter.grad for parameter in model.network.parameters() if parameter.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_file_in_the_table_can_be_built_with_the_documented_size(name):
    """Each distinct network of an architecture and its released weights, on the meta device."""
    seen = set()
    for entry in list_models(f"{name}*"):
        architecture = find_architecture(entry)
        if architecture.name != name or str(architecture.options) in seen:
            continue
        seen.add(str(architecture.options))
        with torch.device("meta"):
            network = create_model(entry)
        assert sum(parameter.numel() for parameter in network.parameters()) == architecture.parameters, entry
        classes = len(label_set(architecture.labels)) if architecture.labels else architecture.options["num_classes"]
        heads = [p.shape[0] for p in network.parameters() if p.ndim > 1]
        assert classes in heads, entry


def test_every_file_has_an_address_a_licence_and_a_paper():
    for entry in read_table().released.values():
        assert entry.url.startswith("https://github.com/") and entry.url.count("/") >= 7, entry.name
        assert entry.licence and entry.paper and entry.file, entry.name


def test_no_two_names_or_files_are_the_same():
    entries = read_table().released.values()
    assert len({entry.url for entry in entries}) == len(entries)
    aliases = [alias for entry in entries for alias in entry.aliases]
    assert len(set(aliases)) == len(aliases) and not set(aliases) & set(read_table().names())


def test_the_documented_names_are_there():
    wanted = [
        "task1_baseline", "cp_mobile", "cp_resnet", "mn04", "mn10", "mn20", "mn40", "dymn04", "dymn10", "dymn20",
        "passt_s_swa", "passt_20sec", "fpasst", "beats", "atst_frame", "m2d", "asit", "frame_mn06", "frame_mn10",
        "desed_crnn_2024", "mn10.as", "passt_s_swa.as",
    ]  # fmt: skip
    assert set(wanted) <= set(list_models())
    assert list_models("mn40*ext*") == ["mn40.as_ext", "mn40.as_ext_2", "mn40.as_ext_3"]
    assert list_models("mn10_as_hop_5") == ["mn10.as_hop_5"]


def test_front_ends_of_released_variants_follow_their_names():
    assert create_front_end("mn10.as_hop_15").mel.hop_length == 480
    assert create_front_end("mn10_as_mels_40").n_mels == 40
    assert create_front_end("passt_s_swa.stfthop100").mel.hop_length == 100


def test_unknown_names_and_options_get_the_nearest():
    with pytest.raises(UserError, match="Near it: mn10_as"):
        load_audio_model("mn11_as")
    with pytest.raises(UserError, match="width_mult"):
        create_model("mn10", widht_mult=2)
    with pytest.raises(UserError, match="hop_length"):
        create_front_end("mn10", hop_lenght=2)


def test_a_class_count_of_the_official_name_is_understood():
    assert create_model("task1_baseline", n_classes=4)(torch.rand(1, 1, 64, 20)).logits.shape == (1, 4)
