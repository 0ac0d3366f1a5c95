"""Looking into a network without leaving a trace: hooks are taken off again, modes and flags put back."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

from torch import nn

from camseg.base.errors import LayerError

Hook: TypeAlias = Callable[[nn.Module, tuple[Any, ...], Any], object]
"""(module, its inputs, its output) -> what goes on in the output's place; None leaves it."""


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without parameter gradients; every module's mode and flag come back afterwards."""
    # One walk, and over the modules' own tables: on a GPU what comes before the pass is a part of its price.
    modules = list(model.modules())
    training = [module for module in modules if module.training]
    own = (parameter for module in modules for parameter in module._parameters.values())
    learning = [parameter for parameter in own if parameter is not None and parameter.requires_grad]
    try:
        for module in training:
            module.training = False
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in learning:
            parameter.requires_grad_(True)


@contextmanager
def hooked(model: nn.Module, hooks: Mapping[str, Hook]) -> Iterator[None]:
    """Forward hooks by module name, taken off again; LayerError for a name that the model lacks."""
    modules = {name: _submodule(model, name) for name in hooks}
    handles = [modules[name].register_forward_hook(hook) for name, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _submodule(model: nn.Module, name: str) -> nn.Module:
    try:
        if name:
            return model.get_submodule(name)
    except AttributeError:
        pass
    near = [other for other, _ in model.named_modules() if name and name in other][:5]
    hint = f"near it are {', '.join(near)}" if near else "`camseg layers` lists them"
    raise LayerError(f"the model has no layer {name!r}; {hint}")
