"""Two processes that share a batch learn what one process learns from all of it."""

import socket
from pathlib import Path

import torch
import torch.distributed
from torch import nn
from torch.nn import functional

from retrieval.losses import contrastive_loss
from retrieval.train import _gathered, _gathered_list

PAIRS, DIM = 12, 6
TEMPERATURE = 0.1


def pairs():
    generator = torch.Generator().manual_seed(0)
    audio, text = (torch.randn(PAIRS, DIM, dtype=torch.float64, generator=generator) for _ in range(2))
    return audio, text, torch.arange(PAIRS) // 2


def projection():
    torch.manual_seed(1)
    return nn.Linear(DIM, DIM).double()


def loss_and_gradient(network, audio, text, group):
    vectors = [_gathered(functional.normalize(network(part), dim=1)) for part in (audio, text)]
    loss = contrastive_loss(*vectors, _gathered(group), TEMPERATURE)
    loss.backward()
    return loss.detach(), network.weight.grad


def half_of_the_work(rank, port, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    rows = slice(rank * PAIRS // 2, (rank + 1) * PAIRS // 2)
    loss, gradient = loss_and_gradient(projection(), *(part[rows] for part in pairs()))
    torch.distributed.all_reduce(gradient)  # as DDP does
    captions = _gathered_list([f"caption {rank}"])
    torch.save({"loss": loss, "gradient": gradient / 2, "captions": captions}, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_have_the_loss_and_the_gradient_of_the_joint_batch(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(half_of_the_work, (port, str(tmp_path)), nprocs=2)
    loss, gradient = loss_and_gradient(projection(), *pairs())
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(found["loss"], loss)
        torch.testing.assert_close(found["gradient"], gradient)
        assert found["captions"] == ["caption 0", "caption 1"]
