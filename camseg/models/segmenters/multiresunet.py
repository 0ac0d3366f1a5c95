"""MultiResUNet: blocks that see several sizes at once, and residual paths for the skips."""

from torch import Tensor, nn

from camseg.models.segmenters.blocks import Chain, ConvUnit, ResidualPathNetwork, batch_norm, chain_widths


class MultiResUNet(ResidualPathNetwork):
    """MultiResUNet: images (N, inputs, H, W) -> logits (N, outputs, H, W).

    7,238,228 trainable parameters with three inputs and one output, and 24,522 running statistics: 7,262,750 as
    published, counted by Keras. As the authors' Keras code has it: widths by 0.167, 0.333 and 0.5 of 1.67 U, batch norm
    after the ReLU of sums, convolutions without bias. Their later PyTorch version, with 7,251,322 parameters, orders
    batch norm and ReLU the other way round, and is not what was published.

    Ibtehaz and Rahman, MultiResUNet: Rethinking the U-Net Architecture for Multimodal Biomedical Image Segmentation,
    Neural Networks 121, 2020.
    """

    def __init__(self, *, inputs: int = 3, outputs: int = 1) -> None:
        super().__init__(MultiResBlock, inputs, outputs)


class MultiResBlock(nn.Module):
    """A chain of three 3x3 convolutions beside a 1x1 shortcut; their sum, ReLU, batch norm.

    (N, C, H, W) -> (N, sum of ``chain_widths``, H, W).
    """

    def __init__(self, channels: int, stage: int) -> None:
        super().__init__()
        width = sum(chain_widths(stage))
        self.shortcut = ConvUnit(channels, width, 1, relu=False)
        self.chain = Chain(channels, stage)
        self.bn_out = batch_norm(width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn_out((self.chain(x) + self.shortcut(x)).relu())
        return out
