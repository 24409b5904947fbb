"""MN and DyMN beside what the official code computes."""

import torch

from tests.support.golden_case import relative_error

TOLERANCE = 1e-4


def layout(network):
    return {key: list(value.shape) for key, value in network.state_dict().items()}


def outputs_of_stages(stages, hidden, run):
    """Output of every stage, of the layer `hidden`, and the final output of `run()`."""
    kept = {}
    hooks = [
        stage.register_forward_hook(lambda module, args, out, index=index: kept.__setitem__(index, out.clone()))
        for index, stage in enumerate(stages)
    ]
    hooks.append(hidden.register_forward_hook(lambda module, args, out: kept.__setitem__("hidden", out.clone())))
    with torch.inference_mode():
        output = run()
    for hook in hooks:
        hook.remove()
    return kept, output


def compare_with_official(case, model, stages):
    """Front end, blocks, embedding, hidden layer and logits; the difference of two clips' logits counts on its own."""
    waveform = case.waveform()
    with torch.inference_mode():
        spectrogram = model.front_end(waveform)
    kept, output = outputs_of_stages(stages, model.network.classifier[2], lambda: model.network(spectrogram))
    assert (case.thinned("mel", spectrogram[:, 0]) - case.expected("mel")).abs().max() < 1e-3
    for number in (6, 12, 15):
        name = f"block_{number}"
        assert relative_error(case.thinned(name, kept[number]), case.expected(name)) < TOLERANCE
    statistics = torch.stack([torch.stack([kept[i].mean(), kept[i].std(correction=0)]) for i in range(len(stages))])
    assert relative_error(statistics, case.expected("block_statistics")) < TOLERANCE
    assert relative_error(output.embedding, case.expected("embedding")) < TOLERANCE
    assert relative_error(kept["hidden"], case.expected("hidden")) < TOLERANCE
    assert relative_error(output.logits, case.expected("logits")) < TOLERANCE
    delta = 1000 * (output.logits[0] - output.logits[1])
    assert (delta - case.expected("logits_delta")).abs().max() < 5e-3
