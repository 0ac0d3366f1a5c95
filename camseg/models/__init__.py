"""Names -> networks: timm's architectures and those of the papers, with weights from timm, from a file, or none."""

import lazy_loader

# Looked up when it is first used: names and weights' addresses can be had without loading PyTorch.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"building": ["create_model"]})
