import numpy as np
import pytest
import torch

from camseg.train.crf_loss import ALIKE, LARGEST, NEAR, RADIUS, crf_loss


def by_hand(probabilities, image):
    """The mean over pixels of kernel times disagreement with every other pixel of the window; (parts, h, w)."""
    _, height, width = probabilities.shape
    total = 0.0
    for y in range(height):
        for x in range(width):
            for v in range(max(0, y - RADIUS), min(height, y + RADIUS + 1)):
                for u in range(max(0, x - RADIUS), min(width, x + RADIUS + 1)):
                    if (v, u) != (y, x):
                        places = ((v - y) ** 2 + (u - x) ** 2) / (2 * NEAR**2)
                        colors = ((image[y, x] - image[v, u]) ** 2).sum() / (2 * ALIKE**2)
                        differ = 1 - (probabilities[:, y, x] * probabilities[:, v, u]).sum()
                        total += np.exp(-places - colors) * differ
    return total / (height * width)


@pytest.mark.parametrize("multi_label", [True, False])
def test_the_energy_of_every_window(multi_label):
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 7, 9, generator=random)
    squares = torch.randint(100, 140, (2, 7, 9, 3), dtype=torch.uint8, generator=random)
    if multi_label:
        p = logits.sigmoid().numpy()
        parts = [[np.stack([p[n, k], 1 - p[n, k]]) for k in range(2)] for n in range(2)]
    else:
        parts = [[one] for one in logits.softmax(dim=1).numpy()]
    images = squares.numpy() / 255
    want = np.mean([[by_hand(one, image) for one in own] for own, image in zip(parts, images, strict=True)])
    assert float(crf_loss(logits, squares, multi_label)) == pytest.approx(want, rel=1e-5)


def test_an_outline_along_an_edge_costs_less_than_one_across():
    image = torch.full((1, 16, 16, 3), 40, dtype=torch.uint8)
    image[:, :, 8:] = 200
    along, across = (torch.full((1, 1, 16, 16), -20.0) for _ in range(2))
    along[..., 8:], across[..., 8:, :] = 20.0, 20.0
    costs = [float(crf_loss(logits, image, True)) for logits in (along, across, 0 * along)]
    assert costs[0] < 0.05 < costs[1] < costs[2]


def test_large_images_are_reduced_and_gradients_flow():
    logits = torch.zeros(1, 1, 2 * LARGEST, 2 * LARGEST, requires_grad=True)
    squares = torch.zeros(1, 2 * LARGEST, 2 * LARGEST, 3, dtype=torch.uint8)
    crf_loss(logits + torch.linspace(-1, 1, 2 * LARGEST), squares, True).backward()
    assert logits.grad.abs().sum() > 0
