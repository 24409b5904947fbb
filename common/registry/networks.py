"""The code behind the names of released.yaml; each module of networks is imported only when it is needed."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from torch import nn

if TYPE_CHECKING:
    from common.features.front_ends import FrontEnd


class Network(NamedTuple):
    """A function that builds a network, and one from keys of its authors' files to ours (None: not read)."""

    make: Callable[..., nn.Module]
    released_key: Callable[[str], str | None] = str


def find_network(name: str) -> Network:
    """The network of an architecture, by the word `network` in released.yaml."""
    match name:
        case "cp_mobile":
            from common.models.cp_mobile import CPMobile

            return Network(CPMobile)
        case "cp_resnet":
            from common.models.cp_resnet import CPResNet

            return Network(CPResNet)
        case "mn":
            from common.models.mobilenet import MobileNet

            return Network(MobileNet)
        case "dymn":
            from common.models.dynamic_mobilenet import DynamicMobileNet

            return Network(DynamicMobileNet)
        case "passt":
            from common.models.passt import PaSST

            return Network(PaSST)
        case "beats":
            from common.models import beats

            return Network(beats.beats, beats.released_key)
        case "atst_frame":
            from common.models import atst

            return Network(atst.atst_frame, atst.released_key)
        case "fpasst":
            from common.models import frame_passt

            return Network(frame_passt.fpasst, frame_passt.released_key)
        case "m2d":
            from common.models import m2d

            return Network(m2d.m2d, m2d.released_key)
        case "asit":
            from common.models import asit

            return Network(asit.asit, asit.released_key)
        case "frame_mn":
            from common.models import frame_mobilenet

            return Network(frame_mobilenet.frame_mobilenet, frame_mobilenet.released_key)
        case "crnn":
            from common.models import crnn

            return Network(crnn.desed_crnn, crnn.released_key)
    raise ValueError(f"released.yaml names the network {name}, which is not listed here")


def find_front_end(name: str) -> "Callable[..., FrontEnd]":
    """The class of a front end, by the word `make` in released.yaml."""
    from common.features import front_ends

    return getattr(front_ends, name)
