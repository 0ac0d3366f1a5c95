"""Names -> networks: timm's architectures and those of the papers that timm lacks, with heads joined on request."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from camseg.base.errors import InputError, WeightsUnavailableError, first_line
from camseg.models.backbones.med_ic import MedIC
from camseg.models.backbones.nasnet import NASNetMobile
from camseg.models.backbones.vit import minimal_vit
from camseg.models.heads import HEADS, POOLINGS, WithHeads
from camseg.models.hub import hub
from camseg.models.library import PretrainedCfg, get_pretrained_cfg, resolve_model_data_config, timm
from camseg.models.names import ModelArgs, canonical_name, split_name

SIZE_ARGS: Final[Sequence[ModelArgs]] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})
"""How constructors that fix the size of their inputs are told to take others too, the best way first."""


@dataclass(frozen=True, kw_only=True)
class Own:
    """An architecture that is built here."""

    build: Callable[..., nn.Module]
    """``num_classes`` and further keyword arguments -> the network."""
    classifier: str = "fc"
    """The name of its last layer."""
    image_size: int = 224
    """Side of the inputs that it was described for, pixels."""
    fixed: bool = False
    """Whether its constructor takes the size of the inputs, as ``img_size``."""

    @property
    def config(self) -> PretrainedCfg:
        """What timm would state of it; inputs are scaled to [-1, 1]."""
        return PretrainedCfg(
            input_size=(3, self.image_size, self.image_size),
            fixed_input_size=self.fixed,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            classifier=self.classifier,
            num_classes=0,
        )


OWN: Final[dict[str, Own]] = {
    "nasnet_mobile": Own(build=NASNetMobile),
    "med_ic": Own(build=MedIC, image_size=28),
    "med_ic_2": Own(build=partial(MedIC, involutions=2), image_size=28),
    "med_ic_3": Own(build=partial(MedIC, involutions=3), image_size=28),
    "med_ic_inn": Own(build=partial(MedIC, widths=()), image_size=28),
    "med_ic_cnn": Own(build=partial(MedIC, involutions=0, widths=(64, 128, 256)), image_size=28),
    "vit_minimal": Own(build=minimal_vit, classifier="head", fixed=True),
}
"""By canonical name, as ``names.ARCHITECTURES``."""


def create_model(
    arch: str, num_classes: int, *, pretrained: bool = False, model_args: ModelArgs | None = None
) -> nn.Module:
    """Build the network ``arch`` with ``num_classes`` outputs: images (N, 3, H, W) -> logits (N, num_classes).

    ``arch`` is a name of timm or of ``names.ARCHITECTURES``, as people type them, and may have heads joined to it
    (``mobilenetv2_100+mab+sbr``); ``model_args`` are the backbone's. Raises InputError for an unknown name or
    argument, WeightsUnavailableError when pretrained weights cannot be downloaded, or there are none.
    """
    check_architecture(arch)
    backbone, heads = split_name(arch)
    args = dict(model_args or {})
    absent = [int(index) for index in str(args.pop("absent", "")).split(",") if index] if pools(arch) else []
    model = _create_backbone(backbone, num_classes, pretrained, args)
    return WithHeads(model, heads, absent) if heads else model


def pools(arch: str) -> bool:
    """Whether an architecture's last head pools maps in place of its backbone; then ``model_args`` may hold ``absent``,
    the indices of negative classes, joined by commas."""
    return split_name(arch)[1][-1:] in {(name,) for name in POOLINGS}


def check_architecture(arch: str) -> str:
    """Return the canonical name of an architecture that can be built; raise InputError, with near names, for others."""
    backbone, heads = split_name(arch)
    if backbone not in OWN and not timm.is_model(backbone):
        near = get_close_matches(backbone, [*timm.list_models(), *OWN], n=5)
        hint = f"; near it are {', '.join(near)}" if near else ""
        raise InputError(f"timm {timm.__version__} has no model {backbone!r}{hint}")
    known = [*HEADS, *POOLINGS]
    if unknown := [name for name in heads if name not in known]:
        raise InputError(f"there is no head {unknown[0]!r}; there are {', '.join(known)}")
    return canonical_name(arch)


def _create_backbone(arch: str, num_classes: int, pretrained: bool, model_args: ModelArgs) -> nn.Module:
    own = OWN.get(arch)
    if own and pretrained:
        raise WeightsUnavailableError(
            f"there are no ImageNet weights of {arch}; train from scratch with --weights none, or give a file with "
            "--weights FILE"
        )
    reachable = True
    try:
        if own:
            model = own.build(num_classes=num_classes, **model_args)
            model.pretrained_cfg = own.config.to_dict()
        elif pretrained:
            with hub() as reachable:
                model = timm.create_model(arch, pretrained=True, num_classes=num_classes, **model_args)
        else:
            model = timm.create_model(arch, num_classes=num_classes, **model_args)
        return model
    except Exception as error:  # hubs and constructors raise whatever their libraries do
        if pretrained and not isinstance(error, TypeError):
            reason = first_line(error) if reachable else "the hub is out of reach, and its cache lacks them"
            raise WeightsUnavailableError(
                f"the ImageNet weights of {arch} could not be had ({reason}); connect "
                "to the internet once, give a local file with --weights FILE, or train from scratch with --weights none"
            ) from None
        raise InputError(f"{arch} cannot be built with {dict(model_args)}: {first_line(error)}") from error


def default_image_size(arch: str) -> int:
    """The side of the inputs that an architecture is described for where it is one of ours, else 224 pixels."""
    own = OWN.get(split_name(arch)[0])
    return own.image_size if own else 224


def create_sized_model(
    arch: str, num_classes: int, image_size: int, *, pretrained: bool = False, model_args: ModelArgs | None = None
) -> tuple[nn.Module, ModelArgs]:
    """``create_model`` for square inputs of ``image_size`` pixels, and the arguments that rebuild it.

    Architectures that fix the size of their inputs are told it, and to take others too where they have a way;
    ``model_args`` come first. Raises what ``create_model`` does, and InputError when the network cannot take
    inputs of that size.
    """
    given = dict(model_args or {})
    if (channels := given.get("in_chans", 3)) != 3:
        raise InputError(
            f"expected a network of three channels, got in_chans={channels}; camseg feeds three channels, grey images "
            "as three equal ones, so leave in_chans out"
        )
    backbone, _ = split_name(arch)
    own = OWN.get(backbone)
    config: Any = own.config if own else get_pretrained_cfg(backbone) if timm.is_model(backbone) else None
    fixed = config is not None and config.fixed_input_size
    for size in SIZE_ARGS if fixed else [{}]:
        args: ModelArgs = {**size, **({"img_size": image_size} if fixed else {}), **given}
        try:
            model = create_model(arch, num_classes, pretrained=pretrained, model_args=args)
            break
        except InputError as error:
            # Constructors refuse an argument that they do not know before they do any work.
            if not size or not isinstance(error.__cause__, TypeError):
                raise
    try:
        with torch.inference_mode():
            logits = model.eval()(torch.zeros(1, 3, image_size, image_size))
    except InputError:  # of a head, which no other size would help
        raise
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        hint = (f", such as {config.input_size[-1]}" if config else "") + (", or other --model-arg" if given else "")
        reason = first_line(error)
        raise InputError(
            f"{arch} cannot take inputs of {image_size} pixels ({reason}); choose another --image-size{hint}"
        ) from None
    if not isinstance(logits, Tensor) or logits.shape != (1, num_classes):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        arguments = f" with {', '.join(f'{name}={value}' for name, value in given.items())}" if given else ""
        raise InputError(
            f"expected a network that gives one logit per class, (1, {num_classes}) for one image; {arch}{arguments} "
            f"gives {found}; " + ("leave such arguments out" if given else "choose another architecture")
        )
    return model, args


def has_pretrained(arch: str) -> bool:
    """Whether timm has pretrained weights of an architecture's backbone."""
    return bool(timm.is_model_pretrained(split_name(arch)[0]))


def normalisation(model: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and standard deviation of inputs, in [0, 1], that timm states for a model."""
    config = resolve_model_data_config(model)
    return tuple(config["mean"]), tuple(config["std"])


def pretrained_classes(model: nn.Module) -> int | None:
    """The number of classes that a model's pretrained head tells apart, as timm states it."""
    config: Mapping[str, Any] = getattr(model, "pretrained_cfg", {})
    count: int | None = config.get("num_classes")
    return count


def involution_kernels(model: nn.Module, inputs: Tensor) -> list[Tensor]:
    """The kernels (N, groups, kernel_size^2, h, w) of each involution layer for normalised images (N, 3, H, W).

    Raises InputError for a network without involution.
    """
    backbone = model.backbone if isinstance(model, WithHeads) else model
    if not isinstance(backbone, MedIC) or not len(backbone.involutions):
        raise InputError("expected a network with involution layers: med_ic, med_ic_2, med_ic_3 or med_ic_inn")
    with torch.inference_mode():
        return backbone.kernels(inputs)
