"""Involution: a filter of its own at every pixel, made from that pixel, and shared by the channels of a group."""

from torch import Tensor, nn
from torch.nn import functional

from camseg.base.errors import InputError


class Involution(nn.Module):
    """Involution (N, C, H, W) -> (N, C, h, w), h = ceil(H / stride).

    The pixel, averaged over ``stride`` x ``stride`` where that is above 1, goes through a 1x1 convolution to
    ceil(C / reduction) hidden units, batch norm, ReLU and a second 1x1 convolution to kernel_size^2 weights for each
    of the ``groups``.

    Raises InputError for a kernel of even size, or channels that do not divide into the groups.

    Li et al., Involution: Inverting the Inherence of Convolution for Visual Recognition, CVPR 2021, equations 4 to 6.
    """

    def __init__(
        self, channels: int, kernel_size: int = 7, *, stride: int = 1, groups: int = 1, reduction: int = 4
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0 or channels % groups:
            raise InputError(
                f"expected a kernel of odd size, and channels that divide into the groups; got size {kernel_size}, "
                f"{channels} channels and {groups} groups"
            )
        self.kernel_size, self.stride, self.groups = kernel_size, stride, groups
        hidden = -(-channels // reduction)
        # What sticks out at the right and the bottom is averaged too, so that the sizes are those of the output.
        self.average = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()
        self.reduce = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.BatchNorm2d(hidden), nn.ReLU())
        self.span = nn.Conv2d(hidden, kernel_size**2 * groups, 1)

    def kernels(self, x: Tensor) -> Tensor:
        """The kernels (N, groups, kernel_size^2, h, w) that ``x`` (N, C, H, W) is filtered with."""
        kernels: Tensor = self.span(self.reduce(self.average(x))).unflatten(1, (self.groups, -1))
        return kernels

    def forward(self, x: Tensor) -> Tensor:
        kernels = self.kernels(x)
        patches = functional.unfold(x, self.kernel_size, padding=self.kernel_size // 2, stride=self.stride)
        patches = patches.view(len(x), self.groups, -1, *kernels.shape[2:])  # (N, G, C / G, K^2, h, w)
        return (kernels[:, :, None] * patches).sum(dim=3).flatten(1, 2)
