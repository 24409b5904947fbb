"""Training of Task 4: published recipes, mixing, the teacher, embeddings, and runs that were stopped."""

import math
import multiprocessing
import random
import shutil
import time

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.features.augment import mix
from common.runs.run import Run
from common.runs.stages import run_stages
from common.settings import SettingsError, load_settings
from common.training.checkpoints import read_checkpoint
from task4_sed.baseline.network import make_network
from task4_sed.baseline.recipe import STAGES, score_network
from task4_sed.baseline.settings import GroupSettings, MixupSettings, Task4Settings
from task4_sed.baseline.train import (
    BatchParts,
    Mixing,
    RateFactor,
    SoundEventTraining,
    compare,
    consistency_weight,
    draw_mixings,
    mix_batch,
    weigh,
)
from task4_sed.data.clips import open_clips
from task4_sed.data.embeddings import EmbeddingStore, embed_set, identity, load_frozen
from task4_sed.data.sets import SETS, audio_folder, read_set
from task4_sed.labels import CLASSES, DESED_CLASSES
from task4_sed.scoring import weak_f1
from task4_sed.settings import EmbeddingSettings
from task4_sed.systems import load_recipe, predict, result_row
from tests.support.places import ROOT
from tests.support.quick_task4 import BASELINE_MEDIAN_FRAMES, QUICK, SMALL

FOLDER = ROOT / "task4_sed" / "configs"
CONFIGS = [FOLDER / f"{name}.yaml" for name in ("baseline", "baseline_2023", "small")]
TINY_BEATS = {"dim": 48, "depth": 1, "num_heads": 2, "hidden_dim": 16, "patch_dim": 8, "head_type": None}


@pytest.fixture
def quick(tiny_task4, tmp_path):
    """Makes settings of a quick run; overrides win."""

    def make(config=SMALL, base=QUICK, **overrides):
        places = {"data.root": str(tiny_task4), "runs": str(tmp_path), "name": "quick"}
        overrides = {name.replace("__", "."): value for name, value in overrides.items()}
        return load_settings(Task4Settings, config, {**base, **places, **overrides})

    return make


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_does_two_steps_of_everything(config, quick, tmp_path):
    settings = load_settings(Task4Settings, config)
    batch = [{"sets": group.sets, "clips": 2} for group in settings.data.batch]
    base = {"data.batch": batch, "trainer.accelerator": "cpu", "trainer.measure_energy": False}
    overrides = {"data.scoring_batch": 4}
    if settings.embeddings != "none":
        overrides |= {"embedding.untrained": True, "embedding.options": TINY_BEATS, "embedding.dim": 48}
        overrides |= {"embedding.folder": str(tmp_path / "embeddings")}
    if config.stem != "small":  # full width is for GPUs
        overrides |= {"model.filters": [2, 2, 2, 2, 2, 2, 2], "model.rnn_dim": 4}
    load_recipe().check(quick(config, base, **overrides))


def test_the_published_recipe_of_2024_is_the_fact_sheets():
    """DCASE-REPO/DESED_task, recipes/dcase2024_task4_baseline: confs/pretrained.yaml and what the code makes of it."""
    settings = load_settings(Task4Settings, SMALL.with_name("baseline.yaml"))
    groups = [(group.sets, group.clips) for group in settings.data.batch]
    assert groups == [
        (["maestro_train"], 12),
        (["synthetic_train"], 6),
        (["strong", "synthetic_train"], 6),
        (["weak"], 12),
        (["unlabeled"], 24),
    ]
    assert sum(clips for _, clips in groups) == 60
    assert int(0.9 * SETS["weak"].clips) // 12 == 118  # steps of an epoch; 300 epochs are 35,400 steps
    labels = settings.labels
    assert (labels.overlap, labels.maestro_to_desed, labels.desed_to_maestro) == ("last", True, False)
    assert labels.dog_in_maestro
    assert tuple(labels.classes) == CLASSES
    assert (settings.embeddings, settings.embedding.model, settings.embedding.dim) == ("cached", "beats", 768)
    model = settings.model
    assert model.filters == [16, 32, 64, 128, 128, 128, 128]
    assert model.pooling == [(2, 2), (2, 2), (1, 2), (1, 2), (1, 2), (1, 2), (1, 2)]
    assert (model.rnn_dim, model.num_rnn_layers, model.dropout, model.gate) == (192, 2, 0.2, "glu")
    assert (model.dropstep, model.dropstep_frames, model.aggregation) == (0.3, 16, "adaptive")
    assert (model.norm_momentum, settings.front_end.n_mels) == (0.99, 128)
    assert sum(parameter.numel() for parameter in make_network(settings).parameters()) == 1_785_094
    mixup = settings.mixup
    assert (mixup.probability, mixup.alpha, mixup.draws, mixup.weak_labels) == (0.5, 0.2, "official", "union")
    assert (settings.loss.strong, settings.loss.weak, settings.loss.consistency) == (1, 1, 2)
    teacher = settings.teacher
    assert (teacher.decay, teacher.average_statistics, teacher.ramp_epochs, teacher.maestro) == (
        0.999,
        False,
        50,
        False,
    )
    optim = settings.optim
    assert (optim.lr, optim.warmup_epochs, optim.decay_from_epoch) == (1e-3, 50, 100)
    trainer = settings.trainer
    assert (trainer.epochs, trainer.gradient_clip, trainer.precision, trainer.validate_every) == (
        300,
        5.0,
        "32-true",
        10,
    )
    assert settings.seed == 42
    assert settings.validation.weak and settings.validation.synthetic and settings.validation.maestro
    assert settings.postprocessing.median_frames == BASELINE_MEDIAN_FRAMES
    medians = [settings.postprocessing.median_frames[name] for name in CLASSES]
    assert medians == [
        3, 9, 9, 5, 5, 5, 9, 7, 11, 9, 7, 3, 9, 13, 7, 1, 13, 3, 13, 7, 5, 5, 1, 13, 17, 13, 15
    ]  # fmt: skip


def test_the_published_recipe_of_2023_is_the_fact_sheets():
    settings = load_settings(Task4Settings, SMALL.with_name("baseline_2023.yaml"))
    assert [(group.sets, group.clips) for group in settings.data.batch] == [
        (["synthetic_train"], 12), (["weak"], 12), (["unlabeled"], 24)
    ]  # fmt: skip
    assert tuple(settings.labels.classes) == DESED_CLASSES
    assert settings.embeddings == "none"
    assert sum(parameter.numel() for parameter in make_network(settings).parameters()) == 1_112_420
    assert (settings.model.dropout, settings.model.rnn_dim, settings.trainer.epochs) == (0.5, 128, 200)
    assert settings.postprocessing.median_frames == 7
    assert (settings.mixup.probability, settings.mixup.weak_labels) == (0.5, "soft")


def test_settings_that_contradict_each_other_are_refused(quick):
    with pytest.raises(SettingsError, match=r"model\.pooling needs one entry per block"):
        quick(model__filters=[2, 4, 8])
    with pytest.raises(SettingsError, match=r"group 1 of data\.batch mixes sets"):
        quick(data__batch=[{"sets": ["weak", "strong"], "clips": 2}])
    with pytest.raises(SettingsError, match="median_frames has no length for Blender"):
        quick(postprocessing__median_frames={"Alarm_bell_ringing": 3})


def test_the_loss_adds_the_parts_of_each_kind_of_clip_and_of_the_teacher(quick):
    """By hand, from the outputs of both networks."""
    for with_teacher in (True, False):
        alone = {} if with_teacher else {"teacher": None, "postprocessing.network": "student"}
        settings = quick(**alone, loss__strong=2.0, loss__weak=0.5)
        torch.manual_seed(0)
        module = SoundEventTraining(settings).eval()
        parts, classes = module.parts, len(settings.labels.classes)
        generator = torch.Generator().manual_seed(0)
        batch = {
            "magnitude": torch.rand(parts.clips, 1, settings.front_end.n_mels, 626, generator=generator),
            "strong": torch.randint(2, (parts.clips, classes, 156), generator=generator).float(),
            "weak": torch.randint(2, (parts.clips, classes), generator=generator).float(),
            "valid": torch.rand(parts.clips, classes, generator=generator) < 0.8,
        }
        with torch.no_grad():
            for parameter in module.student.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        student, teacher = module.score(batch)
        assert student.logits.requires_grad and (teacher is None) is not with_teacher
        losses = weigh(compare(student, teacher, batch, parts), settings.loss, consistency=0.7)
        losses = {name: value.item() for name, value in losses.items()}
        entropy = torch.nn.functional.binary_cross_entropy
        frames, clips, valid = student.frame_logits.sigmoid(), student.logits.sigmoid(), batch["valid"].float()
        strong, weak, alike = parts.strong, parts.weak, parts.consistent
        targets = batch["strong"][strong] * valid[strong][..., None]
        assert losses["strong"] == pytest.approx(2 * entropy(frames[strong].mT, targets).item(), rel=1e-4)
        assert losses["weak"] == pytest.approx(
            0.5 * entropy(clips[weak], batch["weak"][weak] * valid[weak]).item(), rel=1e-4
        )
        assert set(losses) == ({"strong", "weak", "consistency"} if with_teacher else {"strong", "weak"})
        if with_teacher:
            assert not teacher.frame_logits.requires_grad
            apart = (frames - teacher.frame_logits.sigmoid())[alike].square().mean()
            apart = apart + (clips - teacher.logits.sigmoid())[alike].square().mean()
            assert losses["consistency"] == pytest.approx(0.7 * apart.item(), rel=1e-4) and apart > 1e-4


def mixed(batch, parts, settings, seed=0):
    """The mixed batch; `parts` are sizes of the parts of strong clips, each mixed within itself."""
    rows = BatchParts([GroupSettings(sets=["strong"], clips=len(batch["strong"]))], maestro_consistent=False)
    rows.mixed = list(torch.arange(sum(parts)).split(parts))
    mixings = draw_mixings(rows, settings, "embeddings" in batch, torch.Generator().manual_seed(seed))
    return mixings, mix_batch(batch, mixings, settings.weak_labels)


def batch_of(clips: int, embeddings: bool) -> dict[str, torch.Tensor]:
    """Every clip has its own number as magnitude, label and embedding, so that a mixture tells its parts."""
    number = torch.arange(1, clips + 1, dtype=torch.float32)
    batch = {"strong": number[:, None, None].expand(clips, 2, 3), "weak": number[:, None].expand(clips, 2)}
    if embeddings:
        batch["embeddings"] = number[:, None, None].expand(clips, 4, 5)
    return {**batch, "magnitude": number[:, None, None, None].expand(clips, 1, 2, 2)}


@pytest.mark.parametrize("embeddings", [False, True])
def test_consistent_mixing_mixes_features_embeddings_and_labels_alike_within_a_kind(embeddings):
    batch = batch_of(10, embeddings)
    _, after = mixed(batch, [4, 4], MixupSettings(alpha=5.0), seed=3)
    value = after["magnitude"][:, 0, 0, 0]
    for name in after:
        torch.testing.assert_close(after[name].flatten(1)[:, 0], value)
    assert (value[:4] <= 4).all() and (value[4:8] >= 5).all() and (value[4:8] <= 8).all()
    assert not torch.equal(value[:8], batch["magnitude"][:8, 0, 0, 0])
    assert torch.equal(value[8:], batch["magnitude"][8:, 0, 0, 0])
    assert torch.equal(batch["strong"][:, 0, 0], torch.arange(1.0, 11.0))  # the batch itself is as it was


def test_official_mixing_draws_anew_for_embeddings_and_mixes_labels_twice():
    (first, second), after = mixed(batch_of(6, True), [6], MixupSettings(alpha=5.0, draws="official"), seed=1)
    features, embeddings = after["magnitude"][:, 0, 0, 0], after["embeddings"][:, 0, 0]
    assert not torch.allclose(features, embeddings)
    assert (first.inputs, second.inputs) == (("magnitude",), ("embeddings",))
    # The labels are those of the features, mixed once more with the weight and partners of the embeddings.
    torch.testing.assert_close(after["strong"][:, 0, 0], mix(features, second.weight, second.partner))
    torch.testing.assert_close(embeddings, mix(torch.arange(1.0, 7.0), second.weight, second.partner))


def test_mixed_weak_labels_are_soft_or_as_published_a_union():
    batch = {"strong": torch.zeros(4, 4, 3), "weak": torch.eye(4), "magnitude": torch.zeros(4, 1, 2, 2)}
    for kind, values in (("soft", None), ("union", {0.0, 1.0})):
        _, after = mixed(batch, [4], MixupSettings(alpha=5.0, weak_labels=kind))
        found = set(after["weak"].unique().tolist())
        assert found == values if values else any(0 < value < 1 for value in found)
        torch.testing.assert_close((after["weak"] > 0).sum(dim=1) >= 1, torch.ones(4, dtype=torch.bool))


def test_a_union_keeps_a_partner_whose_share_float32_would_round_away():
    weight = torch.tensor([1 - 1e-9, 1e-9, 1.0], dtype=torch.float64)
    mixing = Mixing((), weight, torch.tensor([1, 0, 2]))
    batch = {"strong": torch.zeros(3, 3, 2), "weak": torch.eye(3)}
    assert mix_batch(batch, [mixing], "union")["weak"].tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_the_parts_of_a_batch_follow_its_groups(quick):
    parts = BatchParts(quick().data.batch, maestro_consistent=False)
    assert parts.strong.tolist() == [0, 1, 2, 3]
    assert parts.weak.tolist() == [4, 5]
    assert parts.consistent.tolist() == [2, 3, 4, 5, 6]
    assert [part.tolist() for part in parts.mixed] == [[4, 5], [2, 3], [0, 1]]
    assert BatchParts(quick().data.batch, maestro_consistent=True).consistent.tolist() == list(range(7))


def test_the_published_ramp_and_learning_rate():
    """118 steps an epoch: the peak in step 0, then a rise over 50 epochs, constant to 100, cosine to 300."""
    settings = load_settings(Task4Settings, SMALL.with_name("baseline.yaml"))
    per_epoch, total = 118, 300 * 118
    rate = RateFactor.of(settings, per_epoch, total)
    weights = [consistency_weight(settings, step, per_epoch) for step in (0, 2949, 5900)]
    assert weights == pytest.approx([2 * math.exp(-5 * (1 - 1 / 5900) ** 2), 2 * math.exp(-5 * 0.25), 2.0])
    assert rate(0) == 1.0
    assert rate(2949) == pytest.approx(math.exp(-5 * 0.25))
    assert rate(75 * per_epoch) == 1.0
    assert rate(200 * per_epoch - 1) == pytest.approx(math.cos(math.pi / 4))
    assert rate(total) == pytest.approx(1e-5)  # 1e-8 of a peak of 1e-3
    assert RateFactor(50 * per_epoch, None, total)(10**6) == 1.0


def test_the_learning_rate_falls_from_the_step_in_which_the_epoch_starts():
    rate = RateFactor(warmup_steps=4, decay_from=10, total_steps=20)
    assert [rate(step) for step in (3, 8, 9)] == [1.0, 1.0, 1.0]
    assert rate(0) == pytest.approx(math.exp(-5 * (1 - 1 / 4) ** 2))
    assert rate(10) == pytest.approx(math.cos(math.pi / 20))
    assert rate(14) == pytest.approx(math.cos(math.pi / 4))
    assert [rate(19), rate(25)] == pytest.approx([0, 0], abs=1e-12)
    assert RateFactor(warmup_steps=0, decay_from=20, total_steps=20)(19) == 1.0
    assert RateFactor(warmup_steps=0, decay_from=19, total_steps=20)(19) == pytest.approx(0.0, abs=1e-9)


def test_weak_f1_counts_classes_that_do_not_occur_as_zero():
    probabilities = np.array([[0.9, 0.1, 0.2], [0.8, 0.9, 0.1]])
    target = np.array([[1, 0, 0], [0, 1, 0]])
    assert weak_f1(probabilities, target) == pytest.approx((2 / 3 + 1 + 0) / 3)


def _train_in_process(settings, folder):
    torch.set_num_threads(1)
    run_stages(Run(folder, settings), STAGES[:1])


def test_a_run_that_was_killed_twice_ends_with_the_same_weights(quick, tmp_path):
    settings = quick(trainer__epochs=6)
    torch.set_num_threads(1)
    run_stages(Run(tmp_path / "whole", settings), STAGES[:1])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["task4_sed.baseline.recipe", "lightning.pytorch"])
    table, place = tmp_path / "killed/train/metrics.csv", random.Random(0)
    for epochs_before in (1, 3):
        process = context.Process(target=_train_in_process, args=(settings, tmp_path / "killed"))
        process.start()
        while not table.exists() or len(table.read_text().splitlines()) - 1 < epochs_before:
            assert process.is_alive()
            time.sleep(0.002)
        time.sleep(place.uniform(0, 0.1))
        process.kill()
        process.join()
        assert process.exitcode == -9, "the run had ended before it was killed"
    run_stages(Run(tmp_path / "killed", settings), STAGES[:1])
    whole, resumed = (read_checkpoint(tmp_path / name / "train" / "last.ckpt") for name in ("whole", "killed"))
    assert whole["global_step"] == resumed["global_step"]
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name
    without_seconds = [
        [
            line.split(",")[:2] + line.split(",")[3:]
            for line in (tmp_path / name / "train/metrics.csv").read_text().split()
        ]
        for name in ("whole", "killed")
    ]
    assert without_seconds[0] == without_seconds[1]


def test_a_finished_run_is_scored_on_both_data_sets_with_intervals(quick, tiny_task4):
    settings = quick(trainer__epochs=1)
    run = load_recipe().run(settings)
    scores = run.read_evaluation()
    assert scores["made_up"]
    assert set(scores["networks"]) == {"student", "teacher"}
    for kind in ("raw", "postprocessed"):
        figures = scores["networks"]["teacher"][kind]
        assert set(figures) == {"validation", "maestro_validation", "public_evaluation"}
        validation = figures["validation"]
        assert set(validation["psds1"]["per_class"]) <= set(DESED_CLASSES)
        assert validation["clips"]["comparable"]
        rank = validation["psds1"]["value"] + figures["maestro_validation"]["mpauc"]["value"]
        assert validation["rank_score"]["value"] == pytest.approx(rank)
        low, high = figures["maestro_validation"]["mpauc"]["interval"]
        assert low <= high
    row = result_row(run)
    assert row["validation_psds1"] == scores["networks"]["teacher"]["postprocessed"]["validation"]["psds1"]["value"]
    folder = predict(run, tiny_task4)
    tables = sorted(path.name for path in (folder / "postprocessed").glob("*.tsv"))
    assert len(tables) == len(read_set(tiny_task4, "eval24"))
    assert (folder / "unprocessed" / tables[0]).read_text().startswith("onset\toffset\tAlarm_bell_ringing")


def test_scores_without_some_clips_say_that_they_are_not_comparable(quick, tiny_task4, tmp_path):
    root = shutil.copytree(tiny_task4, tmp_path / "tree", ignore=shutil.ignore_patterns("packed"))
    folder = audio_folder(root, "validation")
    gone = sorted(folder.glob("*.wav"))[0]
    gone.unlink()
    settings = quick(trainer__epochs=1, data__root=str(root), validation__weak=False, validation__maestro=False)
    run = Run(tmp_path / "run", settings)
    run_stages(run, STAGES[:1])
    with pytest.raises(UserError, match=f"1 of .* clips of the set validation are missing: {gone.stem}"):
        score_network(run, settings)
    allowed = settings.model_copy(update={"data": settings.data.model_copy(update={"allow_missing": True})})
    run = Run(tmp_path / "run", allowed)
    run_stages(run, STAGES, redo=["train"])
    clips = run.read_evaluation()["networks"]["teacher"]["postprocessed"]["validation"]["clips"]
    assert not clips["comparable"]
    assert clips["missing"] == [gone.stem]
    assert clips["scored"] == clips["expected"] - 1


def test_event_boxes_are_tuned_on_the_validation_set_and_scored_across_folds(quick):
    boxes = {"step_filter_lengths": [0.48], "merge_thresholds_abs": [0.2], "merge_thresholds_rel": [2.0], "folds": 2}
    run = load_recipe().run(quick(trainer__epochs=1, postprocessing__boxes=boxes))
    assert (run.folder / "test" / "boxes.json").is_file()
    figures = run.read_evaluation()["networks"]["teacher"]["postprocessed"]
    assert 0 <= figures["validation"]["psds1"]["value"] <= 1


EMBEDDING = EmbeddingSettings(untrained=True, options=TINY_BEATS, dim=48, batch=3)


def test_cached_embeddings_are_those_that_are_worked_out_in_the_step(quick, tmp_path):
    embedding = {"untrained": True, "options": TINY_BEATS, "dim": 48, "folder": str(tmp_path / "embeddings")}
    settings = quick(embeddings="cached", embedding=embedding)
    clips = read_set(settings.data.root, "weak")
    batch = open_clips(clips, settings, settings.cached_embedding).gather([3, 0])
    assert batch["embeddings"].dtype == torch.float16
    assert batch["embeddings"].shape == (2, 496, 48)
    live = load_frozen(settings.embedding)(batch["waveform"])
    torch.testing.assert_close(batch["embeddings"].float(), live, atol=5e-3, rtol=5e-3)
    module = SoundEventTraining(settings.model_copy(update={"embeddings": "live"}), load_frozen(settings.embedding))
    assert not any("frozen" in name for name in module.state_dict())
    with torch.no_grad():
        module.eval()
        cached = module.detect(batch, student=True).frame_logits
        del batch["embeddings"]
        torch.testing.assert_close(module.detect(batch, student=True).frame_logits, cached, atol=1e-3, rtol=1e-3)


def test_a_store_of_embeddings_is_refused_when_it_is_of_another_model_or_not_whole(tmp_path):
    names = [f"{number}.wav" for number in range(7)]
    waveforms = torch.randn(7, 160_000, generator=torch.Generator().manual_seed(0)) * 0.1
    folder = tmp_path / "store"

    class Stop(Exception):
        pass

    def stop_late(rows):
        if rows[0] >= 6:
            raise Stop
        return waveforms[torch.from_numpy(rows)]

    with pytest.raises(Stop):
        embed_set(folder, names, stop_late, EMBEDDING)
    with pytest.raises(UserError, match="was not finished"):
        EmbeddingStore(folder, names, identity(EMBEDDING))
    asked = []

    def note(rows):
        asked.extend(rows.tolist())
        return waveforms[torch.from_numpy(rows)]

    embed_set(folder, names, note, EMBEDDING)
    assert asked == [6], "what was done before is kept"
    store = EmbeddingStore(folder, ["5.wav", "0.wav"], identity(EMBEDDING))
    expected = load_frozen(EMBEDDING)(waveforms[[5, 0]]).half()
    torch.testing.assert_close(store.gather(np.array([0, 1])), expected, atol=1e-2, rtol=1e-2)
    other = EmbeddingSettings(untrained=True, options={**TINY_BEATS, "depth": 2}, dim=48)
    with pytest.raises(UserError, match=r"of another model \(options"):
        EmbeddingStore(folder, names, identity(other))
    with pytest.raises(UserError, match=r"lacks 1 of 1 clips \(first 9.wav\)"):
        EmbeddingStore(folder, ["9.wav"], identity(EMBEDDING))
    with (folder / "embeddings.h5").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(UserError, match="is cut off"):
        EmbeddingStore(folder, names, identity(EMBEDDING))


def test_embeddings_of_another_width_than_the_settings_say_are_refused():
    with pytest.raises(UserError, match=r"embedding.dim is 768, but the frames of beats have 48 values"):
        load_frozen(EmbeddingSettings(untrained=True, options=TINY_BEATS))
