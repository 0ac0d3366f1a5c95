"""What segmentation networks on an encoder of timm share: which encoders there are, and a classifier's weights."""

from abc import abstractmethod
from typing import Final

from torch import nn

from camseg.base.errors import CheckpointError, InputError, WeightsUnavailableError
from camseg.models.building import check_architecture
from camseg.models.library import get_pretrained_cfg, timm
from camseg.models.segmenters.network import SegmentationNetwork
from camseg.models.weights import Weights

IMAGENET: Final = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of inputs where an encoder states none."""


class EncoderSegmenter(SegmentationNetwork):
    """A segmentation network whose ``backbone`` is a network of timm.

    Raises InputError for an encoder that timm lacks, WeightsUnavailableError for pretrained weights that do not exist.
    """

    def __init__(self, decoder: str, encoder: str, *, pretrained: bool) -> None:
        super().__init__()
        check_architecture(encoder)
        if not timm.is_model(encoder):
            raise InputError(f"expected an encoder of timm, got {encoder}; such as {decoder}+mobilenetv2_100")
        if pretrained and not timm.is_model_pretrained(encoder):
            raise WeightsUnavailableError(f"there are no ImageNet weights of {encoder}; train with --weights none")
        config = get_pretrained_cfg(encoder)
        self.mean, self.std = (tuple(config.mean), tuple(config.std)) if config else IMAGENET

    @property
    @abstractmethod
    def backbone(self) -> nn.Module:
        """timm's network; what is not in it is the decoder."""

    def load_encoder(self, weights: Weights, source: str) -> None:
        """Copy a classifier's weights into the encoder in place; its last layers, which no decoder reads, are left.

        Raises CheckpointError when the encoder needs what the file lacks, or has it in another shape.
        """
        own = self.backbone.state_dict()
        # timm takes networks apart into their stages by changing the first dots of names to underscores.
        given = {name.replace(".", "_"): value for name, value in weights.tensors.items()}
        fitting = {name: given.get(name.replace(".", "_")) for name in own}
        wrong = [
            name
            for name, value in fitting.items()
            if not name.endswith("num_batches_tracked") and (value is None or value.shape != own[name].shape)
        ]
        if wrong:
            raise CheckpointError(
                f"{source} does not fit the encoder: {len(wrong)} tensors are missing or of another shape (first "
                f"{wrong[0]}); choose the encoder and the --model-arg that the file was trained with"
            )
        self.backbone.load_state_dict({name: own[name] if value is None else value for name, value in fitting.items()})


def unavailable(encoder: str, reason: str, reachable: bool) -> WeightsUnavailableError:
    """What is said where an encoder's pretrained weights could not be had."""
    reason = reason if reachable else "the hub is out of reach, and its cache lacks them"
    return WeightsUnavailableError(
        f"the ImageNet weights of {encoder} could not be had ({reason}); connect to the internet once, give a local "
        "file with --weights FILE, or train from scratch with --weights none"
    )
