"""The model of a run of the pre-training on AudioSet strong, or of its office test, for the verbs of `common`."""

from pathlib import Path

from torch import Tensor, nn

from common.errors import UserError
from common.models.audio_model import AudioModel
from common.models.network import ModelOutput, choose_device
from common.runs.run import Run, open_run
from common.training.checkpoints import load_weights
from task4_sed.pretraining.clips import CLASSES
from task4_sed.pretraining.networks import make_model
from task4_sed.pretraining.office.data import read_vocabulary
from task4_sed.pretraining.settings import OfficeSettings, PretrainSettings


class ClipsByFrames(nn.Module):
    """A frame model with the highest frame as score of the clip: its own head for clips is not trained."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, spectrogram: Tensor) -> ModelOutput:
        """(batch, 1, mels, frames) to the scores of frames and clips."""
        output: ModelOutput = self.network(spectrogram)
        assert output.frame_logits is not None
        return output._replace(logits=output.frame_logits.amax(dim=1))


def load_run(folder: Path) -> AudioModel:
    """The network after the last epoch of a run, in evaluation mode."""
    run: Run[PretrainSettings] | Run[OfficeSettings]
    try:
        run, classes = open_run(folder, PretrainSettings), list(CLASSES)
    except UserError:
        run = open_run(folder, OfficeSettings)
        classes = list(read_vocabulary(run.settings.data.root))
    model = make_model(run.settings.model, classes)
    load_weights(model.network, run.checkpoint("train/last.ckpt"), "network.")
    model.network = ClipsByFrames(model.network)
    return model.eval().to(choose_device(run.settings.trainer))
