"""camseg: from image-level labels to pixel masks.

    image -> scores -> capture -> CAM -> propagated CAM -> mask -> trimap -> alpha -> refined mask -> file

    classifier = camseg.load_classifier("runs/cls")
    image = camseg.read_image("scan.png")
    cam = camseg.compute_cams(classifier, [image], targets=["tumour"])["layercam"][0]
    mask = camseg.cam_to_mask(camseg.propagate(image, cam), threshold="max:0.75")

``label_image`` does all of it for one image, ``label_folder`` for a folder. Names are loaded when first
used, so that importing camseg costs nothing; ``__init__.pyi`` says where each comes from.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
