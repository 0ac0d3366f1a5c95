"""Threads that share a classifier get the maps that each would get alone."""

import threading
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Waited

import numpy as np
import pytest

from camseg.base.errors import InputError
from camseg.cams.compute import compute_cams
from camseg.cams.hooks import alone, hooked, inference, private_copy
from camseg.cams.layers import find_layer, list_layers
from camseg.cams.predict import predict

CALLS = [
    {"methods": "layercam", "layer": "stages"},
    {"methods": "gradcam", "layer": "layer2", "flip": True},
    {"methods": "layercam", "scales": (1.0, 1.5)},
    {"methods": "scorecam", "layer": "layer4"},
    {"methods": "gradcam++", "layer": "layer3", "raw": True},
    {"methods": "smoothgradcam++"},
]


def test_calls_in_threads_give_what_they_give_alone(make_classifier, make_images):
    images, targets = make_images((64, 64), (40, 90)), ["cat", "dog"]
    alone_ = [compute_cams(make_classifier(), images, targets, **call)[call["methods"]] for call in CALLS]
    shared = make_classifier()  # the layers of which nobody has looked for yet
    modes = [module.training for module in shared.model.modules()]
    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(compute_cams, shared, images, targets, **call) for call in CALLS * 3]
        scores = [pool.submit(predict, shared, images) for _ in range(6)]
        found = [pool.submit(list_layers, shared) for _ in range(3)]
    for job, call, expected in zip(jobs, CALLS * 3, alone_ * 3, strict=True):
        for cam, own in zip(job.result()[call["methods"]], expected, strict=True):
            np.testing.assert_array_equal(cam, own)
    assert all(np.array_equal(one.result(), predict(make_classifier(), images)) for one in scores)
    assert all(one.result() == list_layers(make_classifier()) for one in found)
    assert [module.training for module in shared.model.modules()] == modes
    assert all(parameter.requires_grad for parameter in shared.model.parameters())
    assert not any(module._forward_hooks for module in shared.model.modules())


def test_a_search_that_failed_is_not_remembered(make_classifier, monkeypatch):
    classifier = make_classifier()
    with monkeypatch.context() as patch:
        patch.setattr(classifier.model.global_pool, "forward", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            list_layers(classifier)
    assert find_layer(classifier) == "layer4"


def test_a_refusal_of_a_scale_is_not_remembered(make_classifier, make_images, monkeypatch):
    classifier, images = make_classifier(), make_images((64, 64))
    pool = classifier.model.global_pool.forward

    def refuse(x):
        if len(x[0, 0]) > 2:
            raise RuntimeError("not now")
        return pool(x)

    with monkeypatch.context() as patch:
        patch.setattr(classifier.model.global_pool, "forward", refuse)
        with pytest.raises(InputError, match=r"cannot take inputs of 128 pixels \(not now\)"):
            compute_cams(classifier, images, ["cat"], scales=(2.0,), layer="layer4")
    assert compute_cams(classifier, images, ["cat"], scales=(2.0,), layer="layer4")["layercam"][0].any()


def test_one_thread_looks_into_a_network_at_a_time(tiny_classifier):
    model, entered = tiny_classifier.model, threading.Event()

    def enter():
        with inference(model):
            entered.set()

    with alone(model), inference(model):  # its holder may enter again
        other = threading.Thread(target=enter)
        other.start()
        assert not entered.wait(0.2)
    other.join(10)
    assert entered.is_set()


def test_other_networks_are_not_waited_for(make_classifier):
    first, second = make_classifier(), make_classifier()
    with alone(first.model), ThreadPoolExecutor(1) as pool:
        assert pool.submit(list_layers, second).result(30)


def test_copies_carry_nothing_of_other_threads(tiny_classifier):
    model = tiny_classifier.model
    with ThreadPoolExecutor(1) as pool:
        with inference(model), hooked(model, {"layer4": lambda *_: None}):
            waiting = pool.submit(private_copy, model)
            with pytest.raises(Waited):
                waiting.result(0.2)
        copy = waiting.result(30)
    assert not any(module._forward_hooks for module in copy.modules())
