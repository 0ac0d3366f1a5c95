"""DC-UNet: MultiResUNet with two chains in the place of a chain and a shortcut."""

from torch import Tensor, nn

from camseg.models.segmenters.blocks import Chain, ResidualPathNetwork, batch_norm, chain_widths


class DCUNet(ResidualPathNetwork):
    """DC-UNet: images (N, inputs, H, W) -> logits (N, outputs, H, W).

    10,040,524 trainable parameters with three inputs and one output, and 29,404 running statistics: 10,069,928 as
    published, counted by Keras. This is the authors' Keras form; their PyTorch version, with 10,811,071 parameters, has
    a shortcut in the blocks, reflection padding and tanh at the end.

    Lou, Guan and Loew, DC-UNet: Rethinking the U-Net Architecture with Dual Channel Efficient CNN for Medical Image
    Segmentation, SPIE Medical Imaging 2021.
    """

    def __init__(self, *, inputs: int = 3, outputs: int = 1) -> None:
        super().__init__(DualChannelBlock, inputs, outputs)


class DualChannelBlock(nn.Module):
    """Two chains of three 3x3 convolutions side by side; their sum, ReLU, batch norm.

    (N, C, H, W) -> (N, sum of ``chain_widths``, H, W).
    """

    def __init__(self, channels: int, stage: int) -> None:
        super().__init__()
        self.a, self.b = Chain(channels, stage), Chain(channels, stage)
        self.bn_out = batch_norm(sum(chain_widths(stage)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn_out((self.a(x) + self.b(x)).relu())
        return out
