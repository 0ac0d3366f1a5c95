import math

import pytest
import torch
from torch.nn import functional

from camseg.base.errors import InputError
from camseg.data.truth import IGNORED
from camseg.train.losses import Criterion
from camseg.train.registry import LOSSES, loss_terms
from camseg.train.settings import SegmenterSettings


def logit(*values):
    return torch.logit(torch.tensor(values))


def test_dice_and_cross_entropy_of_an_image():
    logits = logit(0.9, 0.6, 0.2, 0.1).view(1, 1, 2, 2)
    targets = torch.tensor([1, 0, 1, 0], dtype=torch.uint8).view(1, 2, 2, 1)
    weights = torch.ones(1, 1)
    entropy = -(math.log(0.9) + math.log(0.4) + math.log(0.2) + math.log(0.9)) / 4
    dice = 1 - 2 * (0.9 + 0.2) / (1.8 + 2)
    assert float(Criterion(["cross-entropy"], True)(logits, targets, weights)) == pytest.approx(entropy, rel=1e-5)
    assert float(Criterion(["dice"], True)(logits, targets, weights)) == pytest.approx(dice, rel=1e-5)
    both = Criterion(loss_terms("dice+cross-entropy"), True)(logits, targets, weights)
    assert float(both) == pytest.approx(dice + entropy, rel=1e-5)
    # Half the weight, half the loss; without the second image it is the mean of one.
    two = Criterion(["dice"], True)(logits.repeat(2, 1, 1, 1), targets.repeat(2, 1, 1, 1), torch.tensor([[1.0], [0.5]]))
    assert float(two) == pytest.approx(0.75 * dice, rel=1e-5)


def test_channels_count_by_their_weights():
    logits = logit(0.9, 0.6, 0.2, 0.1).view(1, 2, 1, 2)
    targets = torch.tensor([[1, 1], [0, 0]], dtype=torch.uint8).view(1, 1, 2, 2)
    first = -(math.log(0.9) + math.log(0.4)) / 2
    second = -(math.log(0.2) + math.log(0.9)) / 2
    loss = Criterion(["cross-entropy"], True)(logits, targets, torch.tensor([[1.0, 0.25]]))
    assert float(loss) == pytest.approx((first + 0.25 * second) / 2, rel=1e-5)


def test_exclusive_classes():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]]).view(1, 3, 1, 2)
    targets = torch.tensor([0, 1], dtype=torch.uint8).view(1, 1, 2, 1)
    loss = Criterion(["cross-entropy"], False)(logits, targets, torch.ones(1, 1))
    wanted = functional.cross_entropy(logits, torch.tensor([[[0, 1]]]))
    assert float(loss) == pytest.approx(float(wanted), rel=1e-5)


@pytest.mark.parametrize("multi_label", [True, False])
@pytest.mark.parametrize("name", LOSSES)
def test_ignored_pixels_teach_nothing(name, multi_label):
    torch.manual_seed(0)
    criterion = Criterion([name], multi_label)
    logits = torch.randn(1, 3, 4, 4)
    if multi_label:
        targets = torch.randint(0, 2, (1, 4, 4, 3), dtype=torch.uint8)
    else:
        targets = torch.randint(0, 3, (1, 4, 4, 1), dtype=torch.uint8)
    targets[:, :2] = IGNORED
    weights = torch.ones(1, targets.shape[3])
    one, other = logits.clone().requires_grad_(), logits.clone()
    other[:, :, :2] = 5 * torch.randn(1, 3, 2, 4)
    loss = criterion(one, targets, weights)
    loss.backward()
    assert loss.item() > 0
    assert loss.item() == pytest.approx(float(criterion(other, targets, weights)), rel=1e-5)
    assert one.grad is not None
    assert not one.grad[:, :, :2].any()
    assert one.grad[:, :, 2:].any()
    right = torch.where(targets.permute(0, 3, 1, 2) == 1, 20.0, -20.0) if multi_label else None
    if right is not None and name != "lovasz":
        assert float(criterion(right, targets, weights)) < 0.01


def test_an_image_of_which_nothing_is_known():
    for name in LOSSES:
        logits = torch.randn(1, 1, 2, 2, requires_grad=True)
        loss = Criterion([name], True)(logits, torch.full((1, 2, 2, 1), IGNORED, dtype=torch.uint8), torch.zeros(1, 1))
        loss.backward()
        assert loss.item() == 0
        assert not logits.grad.any()


def test_rare_classes_may_count_more():
    logits = logit(0.9, 0.6).view(1, 1, 1, 2)
    targets = torch.tensor([1, 0], dtype=torch.uint8).view(1, 1, 2, 1)
    loss = Criterion(["cross-entropy"], True, torch.tensor([4.0]))(logits, targets, torch.ones(1, 1))
    assert float(loss) == pytest.approx(-(4 * math.log(0.9) + math.log(0.4)) / 2, rel=1e-5)
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]]).view(1, 2, 1, 2)
    loss = Criterion(["cross-entropy"], False, torch.tensor([1.0, 3.0]))(
        logits, torch.tensor([0, 1], dtype=torch.uint8).view(1, 1, 2, 1), torch.ones(1, 1)
    )
    own = -logits.log_softmax(dim=1)
    assert float(loss) == pytest.approx(float(own[0, 0, 0, 0] + 3 * own[0, 1, 0, 1]) / 2, rel=1e-5)


def test_a_loss_that_there_is_not():
    with pytest.raises(InputError, match="unknown loss 'mse'; choose among dice, cross-entropy"):
        SegmenterSettings(loss="dice+mse")


@pytest.mark.parametrize("name", LOSSES)
def test_a_class_of_which_nothing_is_known_beside_one_that_is(name):
    logits = torch.zeros(1, 2, 3, 3, requires_grad=True)
    targets = torch.ones(1, 3, 3, 2, dtype=torch.uint8)
    targets[..., 1] = IGNORED
    loss = Criterion([name], True)(logits, targets, torch.tensor([[1.0, 0.0]]))
    alone = Criterion([name], True)(logits[:, :1], targets[..., :1], torch.ones(1, 1))
    assert loss.item() == pytest.approx(alone.item() / 2, rel=1e-5)
    loss.backward()
    assert torch.isfinite(logits.grad).all()


def test_rare_classes_may_count_more_in_images_that_count_less():
    logits = logit(0.9, 0.6).view(1, 2, 1, 1).repeat(1, 1, 1, 3)
    targets = torch.ones(1, 1, 3, 2, dtype=torch.uint8)
    loss = Criterion(["cross-entropy"], True, torch.tensor([4.0, 2.0]))(logits, targets, torch.tensor([[1.0, 0.5]]))
    assert float(loss) == pytest.approx(-(4 * math.log(0.9) + 0.5 * 2 * math.log(0.6)) / 2, rel=1e-5)
