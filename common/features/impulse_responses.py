"""Device impulse responses: make a clip sound as if another microphone had recorded it."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor, nn

from common.data.audio import list_audio, read_audio
from common.data.transfer import to_device
from common.errors import UserError

Level = Literal["as_measured", "unit_energy", "keep_rms"]
Delay = Literal["as_measured", "peak_at_start"]
# A response of a microphone lasts well under a second; a longer file is most likely a recording.
LONGEST_SECONDS = 5.0
CLIPS_AT_ONCE_ON_CPU = 32


class DeviceImpulseResponses(nn.Module):
    """Convolve a part of the clips of a batch with impulse responses of microphones, drawn per clip.

    The defaults are the published augmentation ("Device-Robust Acoustic Scene Classification via Impulse Response
    Augmentation", EUSIPCO 2023; theMoro/DIRAugmentation, datasets/dataset.py): the whole response, its level and its
    delay as measured, the result cut to the length of the clip. MicIRP makes a clip about 6 dB louder that way.

    Args:
        folder: every audio file in it is a response; stereo files are averaged to mono.
        sample_rate: Hz of the clips; the responses are resampled to it.
        max_duration: seconds that are kept of each response, None for all. 0.03 s holds 99 % of MicIRP's energy.
        level: "as_measured"; "unit_energy" scales each response to energy 1, so that white noise keeps its level;
            "keep_rms" gives each convolved clip the level that it had before.
        delay: "as_measured"; "peak_at_start" moves the largest sample of the response to time 0.

    Raises:
        UserError: if the folder has no audio file, or a file is unreadable, silent or too long for a response.
    """

    def __init__(
        self,
        folder: Path | str,
        sample_rate: int,
        *,
        max_duration: float | None = None,
        level: Level = "as_measured",
        delay: Delay = "as_measured",
    ):
        super().__init__()
        self.sample_rate = sample_rate
        self.level = level
        self.names = [path.stem for path in list_audio(folder)]
        responses = [_read_response(path, sample_rate, max_duration) for path in list_audio(folder)]
        if level == "unit_energy":
            responses = [response / np.linalg.norm(response) for response in responses]
        # Samples before the peak wrap to the end of the transform, where negative times belong.
        self.lead = [int(np.abs(response).argmax()) if delay == "peak_at_start" else 0 for response in responses]
        longest = max(len(response) for response in responses)
        padded = np.stack([np.pad(response, (0, longest - len(response))) for response in responses])
        self.responses: Tensor
        self.register_buffer("responses", torch.from_numpy(padded), persistent=False)
        self._spectra: Tensor | None = None
        self._num_points = 0

    def forward(self, waveform: Tensor, eligible: Tensor, probability: float, generator: torch.Generator) -> Tensor:
        """Convolve each eligible clip with a given probability.

        Args:
            waveform: (batch, samples).
            eligible: (batch,), bool, on the CPU: the clips that may be changed (published: device a).
            probability: of changing an eligible clip.
            generator: source of the random numbers, on the CPU.

        Returns:
            (batch, samples). Clips that were not drawn are returned bit for bit.
        """
        return self.change(waveform, *to_device(self.draw(eligible, probability, generator), waveform.device))

    def draw(self, eligible: Tensor, probability: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Rows of the clips to change, and the response of each; arguments as of `forward`."""
        drawn = torch.rand(len(eligible), generator=generator) < probability
        choice = torch.randint(len(self.names), (len(eligible),), generator=generator)
        changed = (drawn & eligible).nonzero().squeeze(1)
        return changed, choice[changed]

    def change(self, waveform: Tensor, changed: Tensor, choice: Tensor) -> Tensor:
        """(batch, samples) with the clips `changed` (clips,) convolved with their `choice` (clips,)."""
        if len(changed) == 0:
            return waveform
        return waveform.index_copy(0, changed, self.convolve(waveform[changed], choice))

    def convolve(self, waveform: Tensor, choice: Tensor) -> Tensor:
        """Clip i of (batch, samples) through response choice[i], cut to (batch, samples), by FFT."""
        num_samples = waveform.shape[1]
        spectra = self._transformed(num_samples)
        # An accelerator takes the batch at once; on a CPU pieces that stay in its cache are twice as fast.
        piece = CLIPS_AT_ONCE_ON_CPU if waveform.device.type == "cpu" else len(waveform)
        convolved = torch.empty_like(waveform)
        for clips, chosen, result in zip(*(x.split(piece) for x in (waveform, choice, convolved)), strict=True):
            product = torch.fft.rfft(clips, self._num_points).mul_(spectra[chosen])
            result.copy_(torch.fft.irfft(product, self._num_points)[:, :num_samples])
        if self.level == "keep_rms":
            before, after = (x.square().mean(dim=1, keepdim=True).sqrt() for x in (waveform, convolved))
            convolved *= before / after.clamp(min=1e-12)
        return convolved

    def _transformed(self, num_samples: int) -> Tensor:
        """Spectra (responses, bins) for clips of this length, made once."""
        num_points = next_fast_len(num_samples + self.responses.shape[1] - 1, real=True)
        if self._spectra is None or num_points != self._num_points or self._spectra.device != self.responses.device:
            padded = torch.nn.functional.pad(self.responses, (0, num_points - self.responses.shape[1]))
            shifted = [response.roll(-lead) for response, lead in zip(padded, self.lead, strict=True)]
            self._spectra, self._num_points = torch.fft.rfft(torch.stack(shifted)), num_points
        return self._spectra


def _read_response(path: Path, sample_rate: int, max_duration: float | None) -> np.ndarray:
    response = read_audio(path, sample_rate)
    if len(response) > LONGEST_SECONDS * sample_rate:
        raise UserError(
            f"{path} lasts {len(response) / sample_rate:.1f} s: too long for the response of a microphone "
            f"(at most {LONGEST_SECONDS:.0f} s). Keep only impulse responses in that folder."
        )
    if max_duration is not None:
        response = response[: max(1, round(max_duration * sample_rate))]
    if not np.abs(response).max() > 0:
        raise UserError(f"{path} is silent: not an impulse response. Remove it from the folder.")
    return response
