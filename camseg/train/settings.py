"""How a network is trained, and from what; nothing here loads one."""

import json
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from camseg.base.errors import InputError
from camseg.base.settings import Option, settings, to_json
from camseg.classify.settings import Resize
from camseg.data.mask_settings import MaskClassesText, MaskClassText
from camseg.data.settings import Augmentation
from camseg.models.names import DEFAULT_ARCH
from camseg.train.registry import loss_terms

Optimizer = Literal["adamw", "adam"]
Trainable = Literal["all", "last-stages", "head"]
Balance = Literal["weights", "sampling", "none"]
Keep = Literal["best", "last"]
MixedPrecision = Literal["auto", "no", "fp16", "bf16"]

DEFAULT_SEGMENTER: Final = "unet+mobilenetv2_100"
"""Small, and quick on a CPU."""

_RANGES = " ".join(
    f"{name}={value:g}" if isinstance(value, float) else f"{name}={json.dumps(value)}"
    for name, value in to_json(Augmentation()).items()
)


@settings
class TrainSettings:
    """How a network learns."""

    epochs: Annotated[int, Field(ge=1)] = 20
    """Most epochs to run, the warm-up included."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Images per step, and per process where several train together."""
    optimizer: Optimizer = "adamw"
    """``adamw`` decouples the weight decay from the gradient, ``adam`` adds it there."""
    learning_rate: Annotated[float, Field(gt=0), Option(flags=("--learning-rate", "--lr"))] = 1e-3
    """The optimiser's rate at the start."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    """The optimiser's weight decay."""
    trainable: Trainable = "all"
    """What learns after the warm-up: ``all``, ``last-stages`` (a third of the backbone and the head), or the ``head``
    alone. From scratch it is all, but where asked for otherwise."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 1
    """Epochs in which only the head learns, while a pretrained backbone stays frozen. From scratch there are none, but
    where asked for."""
    averaging: Annotated[float, Field(ge=0, lt=1)] = 0.98
    """Decay per step of the running average of the weights that is validated and kept; 0 keeps the last step's."""
    plateau_patience: Annotated[int, Field(ge=0)] = 2
    """Epochs without a lower validation loss before the rate is divided by 4; 0: never."""
    patience: Annotated[int, Field(ge=0)] = 8
    """After more epochs than this without a better validation macro-F1 (or the same at a lower loss) training stops;
    0: never."""
    keep: Keep = "best"
    """Which epoch's weights: the ``best`` one in validation, or the ``last`` (a network that already tells classes
    apart may go on to learn where they are)."""
    balance: Balance = "weights"
    """How rare classes come to count as much as frequent ones: by ``weights`` of the loss, by ``sampling`` their images
    more often, or not at all (``none``)."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target that is spread evenly over all classes while training; of labels that may be several, of
    each over yes and no."""
    augmentation: Annotated[Augmentation, Option(metavar="KEY=VALUE", default=_RANGES)] = field(
        default_factory=Augmentation
    )
    """Range of a random change of the training images: the rotation in degrees, others as shares, whether to mirror."""
    feature_views: Annotated[int, Field(ge=0, le=64)] = 0
    """With --trainable head: the frozen backbone's features of so many views of each image (as it is, then changed by
    the augmentation) are computed once, so that an epoch takes a moment; 0: anew in each epoch."""
    mixed_precision: MixedPrecision = "auto"
    """``auto``: bf16, else fp16, on a GPU, and float32 (``no``) elsewhere."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Start of all random choices: the splits, the new head's weights, shuffling, augmentation and dropout."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that read and augment images; 0 reads in the main one."""


@settings
class Training:
    """Everything that a run is trained from: the same training on the same device gives the same weights."""

    data: Annotated[str, Option(hidden=True)] = ""
    """Labelled images, as ``datasets.load_training_data`` takes them; an absolute path. Recipes have none."""
    val: Annotated[str | None, Option(metavar="DATA")] = None
    """Validation images; else they are split off."""
    val_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share that is split off for validation, by label and never through a group."""
    test_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share that is split off before that, takes no part in training and is scored at its end."""
    fold: Annotated[tuple[int, int] | None, Option(hidden=True)] = None
    """Which fold of how many, from 0, validates in place of a share that is split off; None: no folds."""
    split_seed: Annotated[int | None, Option(hidden=True)] = None
    """Start of the random choices of a split; None: the seed, as of a network that is trained by itself."""
    samples_sha256: Annotated[str | None, Option(hidden=True)] = None
    """Hash of the images' names, labels and groups; None: not known yet."""
    recipe: Annotated[str, Option(hidden=True)] = "default"
    """Where all that follows came from, before options changed it."""
    model: Annotated[str | None, Option(metavar="NAME", default=f"that of the weights file, else {DEFAULT_ARCH}")] = (
        None
    )
    """timm's or a paper's architecture, such as ResNet50V2, with heads joined if wanted, such as
    mobilenetv2_100+mab+sbr."""
    model_args: Mapping[str, Any] = field(default_factory=dict)
    """Argument of the architecture's constructor; values that JSON has."""
    weights: Annotated[
        str, Option(metavar="imagenet|none|FILE", default="imagenet, or none for architectures without such weights")
    ] = "none"
    """Where training starts; the path of a file is made absolute."""
    weights_sha256: Annotated[str | None, Option(hidden=True)] = None
    """The file's hash; None: not known yet."""
    negative: Annotated[tuple[str, ...], Option(metavar="CLASS")] = ()
    """Class whose images contain no object."""
    image_size: Annotated[int | None, Option(default="what the architecture was described for, else 224")] = None
    """Side of the network's input, pixels."""
    resize: Resize = "stretch"
    """How images become squares: stretched, or padded to keep the aspect ratio."""
    window: Annotated[str, Option(metavar="full|percentile|LOW,HIGH")] = "full"
    """How 16-bit and float images become 8-bit."""
    mean: Annotated[tuple[float, ...] | None, Option(default="the weights' own")] = None
    """Mean of the inputs, in [0, 1]: one number, or one per channel."""
    std: Annotated[tuple[float, ...] | None, Option(default="the weights' own")] = None
    """Standard deviation of the inputs, as their mean."""
    settings: TrainSettings = field(default_factory=TrainSettings)
    """How the network learns."""


@settings
class StudentSettings:
    """What each pixel teaches where masks were made by a classifier's maps, not by people."""

    teach: Literal["masks", "levels"] = "masks"
    """Of a folder that label or segment wrote: its ``masks`` as if they were true, or ``levels`` of its saved maps,
    between which nothing is learned."""
    tight: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Of levels: on images with an object, pixels above this share of the map's maximum are object."""
    loose: Annotated[float, Field(ge=0, lt=1)] = 0.6
    """Pixels below this share of it are background."""
    weigh_by: Literal["agreement", "quality", "none"] = "none"
    """By what each image counts that its mask has in the manifest, where it has it: the agreement of an ensemble's
    members, the quality; none: all alike."""
    consistency: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the consistency loss: what is learned must say of strongly recoloured images what the average of its
    weights says of them as they are; 0: none."""
    consistency_epochs: Annotated[int, Field(ge=1)] = 10
    """Epochs over which that weight rises to its full height."""
    correct_after: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Correct masks by the average of the weights once the fit to them, class by class, has lost this share of its
    first slope, such as 0.9: what is right in masks is learned first, their faults later; 0: never."""
    correct_above: Annotated[float, Field(ge=0.5, lt=1)] = 0.8
    """The least probability at which a pixel of a mask is corrected."""
    crf: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the CRF loss, such as 0.1: neighbours of like colour should be of the same class; 0: none."""
    trusted_epochs: Annotated[int, Field(ge=0)] = 0
    """First epochs in which only the better-trusted part is learned from."""
    trusted_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """The share of the images with an object that is in that part."""

    def __post_init__(self) -> None:
        if self.loose >= self.tight:
            raise InputError(f"expected a loose level below the tight one; got {self.loose:g} and {self.tight:g}")


@settings
class SegmenterSettings(TrainSettings):
    """How a segmentation network learns."""

    epochs: Annotated[int, Field(ge=1)] = 100
    """Most epochs to run, the warm-up included."""
    batch_size: Annotated[int, Field(ge=1)] = 8
    """Images per step, and per process where several train together."""
    trainable: Literal["all", "head"] = "all"
    """What learns after the warm-up: ``all``, or the decoder alone (``head``), where the network has an encoder of
    timm."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 1
    """Epochs in which only the decoder learns, while a pretrained encoder stays frozen. From scratch there are none,
    but where asked for."""
    plateau_patience: Annotated[int, Field(ge=0)] = 5
    """Epochs without a lower validation loss before the rate is divided by 4; 0: never."""
    patience: Annotated[int, Field(ge=0)] = 15
    """After more epochs than this without a better validation Dice (or the same at a lower loss) training stops;
    0: never."""
    balance: Balance = "none"
    """How rare classes come to count as much as frequent ones: by ``weights`` of their pixels in the cross-entropy, by
    ``sampling`` images with them more often, or not at all (``none``)."""
    label_smoothing: Annotated[Literal[0], Option(hidden=True)] = 0
    """Masks teach what they say."""
    feature_views: Annotated[Literal[0], Option(hidden=True)] = 0
    """Decoders read several maps of their encoder, which are not kept."""
    loss: str = "dice+cross-entropy"
    """What is made small, names joined by +: dice, cross-entropy, focal, jaccard, tversky, lovasz."""
    student: StudentSettings = field(default_factory=StudentSettings)
    """What each pixel teaches where no person drew the masks."""

    def __post_init__(self) -> None:
        loss_terms(self.loss)


@settings
class SegmenterTraining(Training):
    """Everything that a segmentation network's run is trained from."""

    data: Annotated[str, Option(hidden=True)] = ""
    """The images, as ``datasets.load_images`` takes them; an absolute path. Recipes have none."""
    masks: Annotated[str, Option(metavar="MASKS")] = ""
    """Folder of their masks: MASKS/<path>.png, or MASKS/<class>/<path>.png for each class; or a folder that label or
    segment wrote."""
    val_masks: Annotated[str | None, Option(metavar="MASKS", default="those of --masks")] = None
    """Folder of the masks of --val's images."""
    object_name: str = "object"
    """What the class is called where there is one."""
    per_class: bool = False
    """Where masks are of one object per image, learn a channel for each label that tells what the object is, instead of
    one for any object."""
    mask_class: MaskClassText | None = None
    """The object's class where masks hold class numbers or colours, and one class is learned: a number, a name of mask
    classes, or any for all but the background."""
    mask_classes: MaskClassesText | None = None
    """What the classes in masks are called: a CSV name,value, a JSON {name: value}, values being numbers or #RRGGBB, or
    voc. Without --mask-class all of them are learned, and exclude each other."""
    model: Annotated[str | None, Option(metavar="NAME", default=DEFAULT_SEGMENTER)] = None
    """A segmentation network by name, such as unet, or DECODER+ENCODER with an encoder of timm, such as
    unet+mobilenetv2_100."""
    weights: Annotated[
        str, Option(metavar="imagenet|none|FILE", default="imagenet, or none for networks without such an encoder")
    ] = "none"
    """Where the encoder starts; the path of a file is made absolute."""
    negative: Annotated[tuple[str, ...], Option(metavar="CLASS")] = ()
    """Class whose images contain no object: a label, whose images need no mask."""
    image_size: Annotated[int | None, Option(default="what the network was described for, else 224")] = None
    """Side of the network's input, pixels."""
    settings: SegmenterSettings = field(default_factory=SegmenterSettings)
    """How the network learns."""


@settings
class MemberSettings:
    """How many networks are trained and joined into one ensemble."""

    folds: Annotated[int, Field(ge=2)] | None = None
    """Train as many networks, each validated on another fold of the images, and join them into one ensemble."""
    seeds: Annotated[int, Field(ge=1)] = 1
    """Train as many networks from different seeds (with --folds: in each fold), and join them."""

    member_weights: Literal["agreement", "equal"] = "agreement"
    """What they count in the ensemble: by how far their masks of training images agree with the others', or equally."""

    @property
    def count(self) -> int:
        """How many networks that makes."""
        return (self.folds or 1) * self.seeds
