"""A pass's layers -> leaves of its graph: what hooks note of a network that runs once."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

import torch
from torch import Tensor, nn

from camseg.base.errors import LayerError
from camseg.cams.hooks import reading
from camseg.cams.layers import layout_at
from camseg.cams.layout import Layout
from camseg.classify.network import FedNetwork

_HALVES: Final = (torch.bfloat16, torch.float16)


def keep(outputs: list[Tensor]) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    """A hook that adds a layer's output to a list."""
    return lambda _module, _inputs, output: outputs.append(output)


class Taps:
    """What the chosen layers gave in one pass: leaves of the graph, or links of it behind an earlier leaf."""

    def __init__(self, network: FedNetwork, layers: Sequence[str]) -> None:
        self.network = network
        self.seen: dict[str, list[object]] = {name: [] for name in layers}

    def hook(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], object], object]:
        """The hook of a layer."""

        def tap(_module: nn.Module, _inputs: tuple[Any, ...], output: object) -> object:
            if not isinstance(output, Tensor):
                self.seen[name].append(output)
                return output
            # From here on in float32; what encloses the pass puts autocast back.
            torch.set_autocast_enabled(output.device.type, False)
            if output.dtype in _HALVES:
                output = output.float()
            if not output.requires_grad:
                output = output.detach().requires_grad_(torch.is_grad_enabled())
            self.seen[name].append(output)
            # A clone goes on, so that an in-place activation behind the layer changes the copy, not the leaf.
            return output.clone()

        return tap

    def behind(self) -> AbstractContextManager[None]:
        """Behind a tap, what went past the layer in half precision goes on in float32 too, where a module reads it:
        sums and concatenations mix types, convolutions do not."""

        def widen(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            if not any(self.seen.values()):
                return inputs
            return tuple(one.float() if isinstance(one, Tensor) and one.dtype in _HALVES else one for one in inputs)

        return reading(self.network.model, widen)

    def once(self) -> tuple[tuple[Tensor, ...], tuple[Layout, ...]]:
        """Each layer's one output and its layout; LayerError where there are more, or it holds no map."""
        leaves, layouts = [], []
        for name, outputs in self.seen.items():
            if len(outputs) != 1:
                raise LayerError(f"layer {name} ran {len(outputs)} times in one pass; choose a layer that runs once")
            layouts.append(layout_at(outputs[0], self.network, name))
            assert isinstance(outputs[0], Tensor)
            leaves.append(outputs[0])
        return tuple(leaves), tuple(layouts)
