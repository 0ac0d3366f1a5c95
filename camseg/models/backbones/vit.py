"""A minimal Vision Transformer, to compare the convolutional networks and their heads with."""

from camseg.models.library import VisionTransformer


def minimal_vit(num_classes: int, *, img_size: int = 224, dynamic_img_size: bool = True) -> VisionTransformer:
    """Four blocks of 192 channels on patches of 16 pixels, without a class token: the mean of all tokens is classified.

    Dosovitskiy et al., An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale, ICLR 2021; the
    width and heads are those of DeiT-Tiny (Touvron et al., ICML 2021).
    """
    return VisionTransformer(
        img_size=img_size,
        embed_dim=192,
        depth=4,
        num_heads=3,
        num_classes=num_classes,
        class_token=False,
        global_pool="avg",
        dynamic_img_size=dynamic_img_size,
    )
