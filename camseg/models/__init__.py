"""Names -> networks: timm's architectures and those of the papers, with weights from timm, from a file, or none."""


def __getattr__(name: str) -> object:
    # Loaded when it is first used: names and weights' addresses can be had without PyTorch.
    if name == "create_model":
        from camseg.models.building import create_model

        return create_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
