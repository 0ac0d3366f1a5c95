"""Random walk on a network's features: places that the classifier sees alike share what the map says of them."""

from torch import Tensor
from torch.nn import functional

from camseg.propagation.parameters import WalkSettings


def random_walk(features: Tensor, maps: Tensor, settings: WalkSettings) -> Tensor:
    """A random walk of maps (N, K, h, w) over features (N, C, h, w) -> (N, K, h, w).

    A is the cosine of every two places' features less their mean over all places, 0 where it is negative; T is A to
    the power beta, entry by entry, divided by its row sums; the map m becomes T^t m, with t the rounds.

    Ahn and Kwak, Learning Pixel-level Semantic Affinity, CVPR 2018, equations 4 and 5; Ahn, Cho and Kwak, Weakly
    Supervised Learning of Instance Segmentation with Inter-pixel Relations, CVPR 2019, equation 7. Both train a network
    for the affinities; here they are those of the classifier's own features, which nothing taught affinity.
    """
    # Behind a ReLU all features point the same way; only what differs from the mean tells places apart.
    different = features.flatten(2) - features.mean(dim=(2, 3))[..., None]
    unit = functional.normalize(different, dim=1)  # (N, C, P)
    affinity = (unit.transpose(1, 2) @ unit).clamp_min_(0.0).pow_(settings.power)  # (N, P, P)
    affinity.diagonal(dim1=1, dim2=2).fill_(1.0)  # also of features that do not differ from the mean
    transition = affinity.div_(affinity.sum(dim=2, keepdim=True))
    walked = maps.flatten(2).transpose(1, 2)  # (N, P, K)
    for _ in range(settings.rounds):
        walked = transition @ walked
    return walked.transpose(1, 2).reshape(maps.shape)
