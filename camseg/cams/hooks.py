"""Looking into a network without leaving a trace: hooks are taken off again, modes and flags put back.

Who looks has the network alone: threads that share one wait for each other.
"""

import copy
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from torch import nn

from camseg.base.errors import LayerError

Hook: TypeAlias = Callable[[nn.Module, tuple[Any, ...], Any], object]
"""(module, its inputs, its output) -> what goes on in the output's place; None leaves it."""


class _Locks:
    """One lock per network, for as long as it lives; beside the networks, so that these still copy and pickle."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew: a forked process has none of the threads that held the locks."""
        self.guard = threading.Lock()
        self.locks: WeakKeyDictionary[nn.Module, AbstractContextManager[bool]] = WeakKeyDictionary()

    def of(self, model: nn.Module) -> AbstractContextManager[bool]:
        """The lock of a network, which its holder may take again."""
        with self.guard:
            return self.locks.setdefault(model, threading.RLock())


_LOCKS = _Locks()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_LOCKS.forget)


@contextmanager
def alone(model: nn.Module) -> Iterator[None]:
    """No other thread looks into the network meanwhile; those that want to wait. May be nested."""
    with _LOCKS.of(model):
        yield


def private_copy(model: nn.Module) -> nn.Module:
    """A copy to change at will, without the hooks and modes of a thread that looks into the network meanwhile."""
    with alone(model):
        return copy.deepcopy(model)


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without parameter gradients; every module's mode and flag come back afterwards.

    ``alone``, since another pass would meet the modes and flags of this one.
    """
    with alone(model):
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
    """Forward hooks by module name, taken off again; LayerError for a name that the model lacks. ``alone``."""
    with alone(model):
        modules = {name: _submodule(model, name) for name in hooks}
        handles = [modules[name].register_forward_hook(hook) for name, hook in hooks.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def reading(model: nn.Module, hook: Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]) -> Iterator[None]:
    """A hook on what every module with parameters of its own reads, taken off again; what it returns is read instead.

    ``alone``.
    """
    with alone(model):
        readers = [module for module in model.modules() if module._parameters]
        handles = [module.register_forward_pre_hook(hook) for module in readers]
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
