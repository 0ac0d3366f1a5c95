"""Networks -> which of their parameters learn, and keeping the others as they are."""

from collections.abc import Callable, Iterator
from typing import TypeAlias, get_args

from torch import nn

from camseg.base.errors import InputError
from camseg.base.progress import Say
from camseg.models.weights import head_parameters
from camseg.train.settings import Trainable, TrainSettings

HeadOf: TypeAlias = Callable[[nn.Module], list[nn.Parameter]]
"""A network -> the parameters of its head; none where it has no head apart from its backbone."""


def learning_parameters(
    model: nn.Module, trainable: Trainable, head_of: HeadOf = head_parameters
) -> list[nn.Parameter]:
    """The parameters that learn; ``head``: of the classifier and plug-in heads, ``last-stages``: also the last third of
    the backbone's blocks. ``head_of`` says what is the head, where it is something else.

    Blocks are the network's children, and of sequences of blocks their members, so that what counts as one is what
    the architecture's author made one. Raises InputError where a network has no head to be told from its backbone.
    """
    if trainable not in get_args(Trainable):
        raise InputError(f"expected {', '.join(get_args(Trainable))} to be trained; got {trainable!r}")
    if trainable == "all":
        return list(model.parameters())
    head = head_of(model)
    if not head:
        raise InputError("the network has no head apart from its backbone; train all of it")
    if trainable == "head":
        return head
    known = {id(parameter) for parameter in head}
    blocks = [own for block in _blocks(model) if (own := [one for one in block.parameters() if id(one) not in known])]
    last = blocks[-(-len(blocks) * 2 // 3) :]
    return [*(parameter for block in last for parameter in block), *head]


def possible_warmup(model: nn.Module, settings: TrainSettings, head_of: HeadOf = head_parameters) -> int:
    """The epochs in which the head can learn alone: those that were asked for, but for one that is left to the rest.

    None where a network has no head apart from its backbone.
    """
    return min(settings.warmup_epochs, settings.epochs - 1) if head_of(model) else 0


def settled_warmup(
    model: nn.Module,
    settings: TrainSettings,
    say: Say,
    head_of: HeadOf = head_parameters,
    called: str = "a head apart from its backbone",
) -> int:
    """``possible_warmup``, and a line to who waits where it is not what was asked for; ``called``: what can warm up."""
    warmup = possible_warmup(model, settings, head_of)
    if warmup != settings.warmup_epochs:
        say(
            f"the warm-up takes {warmup} epochs, not {settings.warmup_epochs}: one epoch at least is left to what "
            f"learns after it, and only {called} warms up"
        )
    return warmup


def freeze_others(model: nn.Module, learning: list[nn.Parameter]) -> None:
    """Let only these parameters learn, and put the model into training mode, in place.

    Frozen means frozen: modules without a parameter that learns are left in evaluation mode, so that the statistics of
    their batch norms stay the pretrained ones and nothing in them drops out.
    """
    chosen = {id(parameter) for parameter in learning}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
    model.train()
    for module in model.modules():
        own = list(module.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    """In the order in which the constructor made them, which is that of the data's path."""
    for name, child in model.named_children():
        if isinstance(child, (nn.Sequential, nn.ModuleList)) or name == "backbone":
            yield from _blocks(child) if name == "backbone" else child.children()
        else:
            yield child
