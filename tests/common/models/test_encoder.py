"""The transformer blocks and the frame heads that the encoders share, against plain computation."""

import pytest
import torch
from torch import Tensor, nn

from common.models.asit import asit
from common.models.atst import atst_frame
from common.models.beats import beats
from common.models.encoder import Attention, Block, DropPath, Encoder
from common.models.frame_passt import fpasst
from common.models.frame_prediction import (
    FramePrediction,
    SequenceModel,
    exact_frames,
    interpolate_at,
    plain_key,
    pooled_logits,
    stretch,
)
from common.models.m2d import m2d
from common.models.network import ModelOutput
from tests.support.plain_transformer import plain_block


@pytest.mark.parametrize("qkv_bias", [True, False])
@torch.no_grad()
def test_a_block_equals_plain_loops(qkv_bias):
    torch.manual_seed(0)
    block = Block(16, 4, qkv_bias=qkv_bias, norm_eps=1e-5).double().eval()
    tokens = torch.randn(2, 7, 16).double()
    plain = torch.stack([plain_block(block, item, eps=1e-5) for item in tokens])
    assert torch.allclose(block(tokens), plain, atol=1e-12)


def test_parameter_names_are_those_of_a_vision_transformer():
    names = {name for name, _ in nn.ModuleDict({"blocks": Encoder(2, 8, 2)}).named_parameters()}
    layers = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    assert names == {f"blocks.{n}.{layer}.{part}" for n in range(2) for layer in layers for part in ("weight", "bias")}


def test_checkpointing_changes_neither_output_nor_gradients():
    torch.manual_seed(0)
    encoder, tokens = Encoder(3, 16, 2), torch.randn(2, 5, 16)
    results = []
    for encoder.checkpointing in (False, True):
        encoder.zero_grad()
        output = encoder(tokens)
        output.square().sum().backward()
        results.append([output.detach(), *(parameter.grad.clone() for parameter in encoder.parameters())])
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(*results, strict=True))


def test_drop_path_takes_whole_items_and_scales_up_what_is_kept():
    torch.manual_seed(0)
    drop, branch = DropPath(0.25), torch.ones(4000, 2, 3)
    kept = drop(branch)
    assert kept.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert (kept == kept[:, :1, :1]).all()
    assert kept.mean() == pytest.approx(1.0, abs=0.03)  # 4000 draws: standard error 0.009
    assert drop.eval()(branch) is branch


@pytest.mark.parametrize(("depth", "rates"), [(1, [0.0]), (2, [0.0, 0.2]), (3, [0.0, 0.1, 0.2])])
def test_drop_path_rises_linearly_to_the_last_block(depth, rates):
    assert [block.drop_path.probability for block in Encoder(depth, 8, 2, drop_path=0.2)] == rates


def test_attention_drops_shares_of_its_weights_in_training_only():
    torch.manual_seed(0)
    attention, tokens = Attention(8, 2, attention_dropout=0.5), torch.randn(1, 5, 8)
    assert not torch.equal(attention(tokens), attention(tokens))
    attention.eval()
    assert torch.equal(attention(tokens), attention(tokens))


@pytest.mark.parametrize("build", [atst_frame, beats, fpasst, m2d, asit])
def test_layer_groups_hold_every_trainable_parameter_of_the_base_once_last_block_first(build):
    model = build(7, dim=32, depth=3, num_heads=2)
    groups = model.layer_groups()
    assert len(groups) == 4
    ids = [id(parameter) for group in groups for parameter in group]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(parameter) for parameter in model.model.parameters() if parameter.requires_grad}
    blocks = model.model.encoder.layers if build is beats else model.model.blocks
    assert all(any(p is q for q in groups[0]) for p in blocks[2].parameters())
    assert {id(p) for p in groups[2]} == {id(p) for p in blocks[0].parameters()}


class Clock(SequenceModel):
    """A stand-in encoder whose steps tell the time of their centre; its spectrogram holds the frame numbers."""

    dim = 2
    step_frames = 16
    max_steps = 62
    first_centre = 0.0875
    edge_frames = 1.5

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[int] = []

    def forward(self, spectrogram: Tensor) -> Tensor:
        """(batch, 1, mels, frames) to (batch, frames // 16, 2)."""
        self.pieces.append(spectrogram.shape[-1])
        steps = spectrogram.shape[-1] // 16
        numbers = spectrogram[:, 0, 0, : 16 * steps].unflatten(-1, (steps, 16)).mean(dim=-1)
        return ((numbers * 10 + 12.5) / 1000).unsqueeze(-1).expand(-1, -1, 2)


def clock_spectrogram(length: int) -> Tensor:
    return torch.arange(length, dtype=torch.float32).expand(1, 1, 4, length)


@pytest.mark.parametrize("seconds", [1, 4, 10, 37])
def test_exact_frames_lie_every_40_ms_at_any_length(seconds):
    clock = Clock()
    frames = exact_frames(clock, clock_spectrogram(100 * seconds - 2))
    centres = torch.arange(25 * seconds) * 0.04 + 0.02
    assert frames.shape == (1, 25 * seconds, 2)
    inside = (centres > 0.0875) & (
        centres < seconds - 0.25
    )  # before the first and after the last step, values are held
    assert torch.allclose(frames[0, inside, 0], centres[inside], atol=1e-4)
    assert max(clock.pieces) <= 62 * 16
    assert max(clock.pieces) - min(clock.pieces) <= 16


def test_the_official_grid_gives_250_frames_at_any_length():
    model = FramePrediction(Clock(), 3)
    assert [model(clock_spectrogram(n)).frames.shape[1] for n in (48, 998, 9998)] == [250, 250, 250]


def test_stretching_interpolates_short_sequences_and_averages_long_ones():
    ramp = torch.arange(4.0).reshape(1, 4, 1)
    assert stretch(ramp, 8).flatten().tolist() == [0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]
    assert stretch(ramp, 2).flatten().tolist() == [0.5, 2.5]
    assert stretch(ramp, 3).flatten().tolist() == [0.5, 1.5, 2.5]  # windows of an adaptive average overlap
    assert stretch(ramp, 4) is ramp


def test_reading_between_steps_is_linear_and_holds_the_ends():
    ramp = torch.tensor([1.0, 3.0, 7.0]).reshape(1, 3, 1)
    positions = torch.tensor([-2.0, 0.5, 1.25, 2.0, 9.0])
    assert interpolate_at(ramp, positions).flatten().tolist() == [1.0, 2.0, 4.0, 7.0, 7.0]


def test_attention_pooling_weighs_frames_by_a_softmax_over_classes():
    frame_logits, attention_logits = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    weak = torch.zeros(2, 3)
    for item in range(2):
        for label in range(3):
            weights = [attention_logits[item, t].softmax(0)[label] for t in range(5)]
            scores = [frame_logits[item, t, label].sigmoid() for t in range(5)]
            weak[item, label] = sum(w * s for w, s in zip(weights, scores, strict=True)) / sum(weights)
    assert torch.allclose(pooled_logits(frame_logits, attention_logits).sigmoid(), weak, atol=1e-6)


def test_masked_classes_get_no_attention_and_a_probability_of_zero():
    frame_logits, attention_logits = torch.randn(1, 5, 3), torch.randn(1, 5, 3)
    mask = torch.tensor([[True, False, True]])
    logits = pooled_logits(frame_logits, attention_logits, mask)
    assert logits.sigmoid()[0, 1] == 0
    alone = pooled_logits(frame_logits[..., [0, 2]], attention_logits[..., [0, 2]])
    assert torch.allclose(logits[:, [0, 2]], alone, atol=1e-5)
    loss = nn.functional.binary_cross_entropy_with_logits(logits, torch.zeros(1, 3), reduction="none")
    assert loss[0, 1] == 0


def test_an_attention_head_gives_the_clip_scores_of_its_frames():
    model = atst_frame(7, dim=16, depth=1, num_heads=2, head_type="attention")
    output = model(torch.randn(2, 1, 64, 1001))
    assert torch.equal(output.logits, pooled_logits(output.frame_logits, model.weak_head(output.frames)))
    with pytest.raises(ValueError, match="as many weak as strong classes, not 5 and 7"):
        atst_frame(7, 5, head_type="attention")


def test_without_a_head_there_are_frames_and_an_embedding_only():
    output = atst_frame(dim=16, depth=1, num_heads=2, head_type=None)(torch.randn(2, 1, 64, 1001))
    assert isinstance(output, ModelOutput)
    assert output.logits is None and output.frame_logits is None
    assert output.frames.shape == (2, 250, 16) and output.embedding.shape == (2, 16)


def test_a_teacher_with_two_recurrent_layers_has_199_2_million_parameters():
    with torch.device("meta"):
        teacher = atst_frame(seq_model_type="rnn")
    assert round(sum(parameter.numel() for parameter in teacher.parameters()) / 1e6, 1) == 199.2
    assert "seq_model.rnn.weight_hh_l1_reverse" in teacher.state_dict()


@pytest.mark.parametrize("rnn_type", ["BiGRU", "BiLSTM"])
def test_recurrent_layers_read_both_directions(rnn_type):
    model = atst_frame(7, dim=16, depth=1, num_heads=2, seq_model_type="rnn", rnn_dim=8, rnn_type=rnn_type)
    frames = torch.randn(1, 6, 16, requires_grad=True)
    for frame in (0, 5):
        (gradient,) = torch.autograd.grad(model.seq_model(frames)[0, frame].sum(), frames)
        assert (gradient.abs().sum(dim=-1) > 0).all()
    assert model.strong_head.in_features == 16


def test_wrapped_and_unwrapped_keys_become_the_same():
    for key in ("model.beats.layer_norm.bias", "model.model.layer_norm.bias", "model.layer_norm.bias"):
        assert plain_key(["beats"], key) == "model.layer_norm.bias"
    assert plain_key(["beats"], "weak_head.bias") == "weak_head.bias"
