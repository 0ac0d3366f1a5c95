"""A folder of SAM's or SAM 2's weights, as transformers saves it -> the network, ready for inference."""

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from camseg.base.compat import import_torchvision
from camseg.base.errors import CheckpointError, InputError, first_line

MODELS: Final[Mapping[str, str]] = {"sam": "SamModel", "sam2": "Sam2Model", "sam2_video": "Sam2Model"}
"""The class of transformers, by the ``model_type`` of ``config.json``; SAM 2 is published as a network for videos."""
WEIGHTS: Final = ("model.safetensors", "model.safetensors.index.json")
"""What holds the weights; the second where they are several files."""
PREPROCESSING: Final = ("preprocessor_config.json", "processor_config.json")
"""What says how images are prepared; the second since transformers 5."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SamNetwork:
    """A network and what it wants to see."""

    model: Any
    """``SamModel`` or ``Sam2Model``, float32, in evaluation mode, on the CPU."""
    side: int
    """Height and width of its inputs, pixels."""
    stretched: bool
    """Whether images are stretched to its inputs (SAM 2), not padded at the right and below (SAM)."""
    mean: tuple[float, ...]
    """Of each channel in [0, 1]."""
    std: tuple[float, ...]
    """Of each channel in [0, 1]."""


def load_network(folder: Path | str) -> SamNetwork:
    """The network of a folder as ``save_pretrained`` writes it; only safetensors are read, and nothing is fetched.

    Raises InputError without transformers, CheckpointError when something is missing in the folder or unreadable.
    """
    folder = Path(folder)
    if not folder.is_dir():
        kind = "is a file" if folder.exists() else "there is no such folder"
        raise CheckpointError(
            f"{folder}: {kind}; expected a folder of SAM's weights as save_pretrained writes it: config.json, "
            "model.safetensors, preprocessor_config.json"
        )
    config = _json(folder, ("config.json",))
    kind = str(config.get("model_type"))
    if kind not in MODELS:
        raise CheckpointError(f"{folder}/config.json: expected a model_type among {', '.join(MODELS)}; got {kind!r}")
    _one_of(folder, WEIGHTS)
    prepared = _json(folder, PREPROCESSING)
    prepared = prepared.get("image_processor", prepared)
    mean, std = (_channels(folder, prepared, name) for name in ("image_mean", "image_std"))
    model = _model(folder, MODELS[kind])
    return SamNetwork(
        model=model.requires_grad_(False).float().eval(),
        side=int(model.config.prompt_encoder_config.image_size),
        stretched=kind != "sam",
        mean=mean,
        std=std,
    )


def _model(folder: Path, name: str) -> Any:
    """The model of transformers with all its weights."""
    library = _transformers(name)
    logging = library.utils.logging
    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    # What it would say goes into the error, or is none of the user's business.
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, report = getattr(library, name).from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # damaged files fail in many ways
        raise CheckpointError(f"{folder}: not readable as weights of {name} ({first_line(error)})") from None
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
    lacking = sorted(str(one) for one in (*report["missing_keys"], *report["mismatched_keys"]))
    if lacking:
        raise CheckpointError(
            f"{folder}: {len(lacking)} parameters of {name} are missing or of another shape (first {lacking[0]}); give "
            "the folder that save_pretrained wrote, whole"
        )
    return model


def _transformers(name: str) -> ModuleType:
    """transformers, where it is installed and has a class; else InputError."""
    try:
        import_torchvision()  # transformers imports it
        library = importlib.import_module("transformers")
        getattr(library, name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"the refiner sam needs {name} of transformers ({first_line(error)}); pip install 'camseg[sam]'"
        ) from None
    return library


def _one_of(folder: Path, names: tuple[str, ...]) -> Path:
    """The first of these files that there is."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    pickled = [path.name for path in sorted(folder.glob("*")) if path.suffix in (".bin", ".pt", ".pth")]
    instead = f" (only {pickled[0]}, which is not read, for it may hold code)" if names is WEIGHTS and pickled else ""
    raise CheckpointError(
        f"{folder}: no {names[0]}{instead}; give a folder as save_pretrained of model and processor writes it"
    )


def _json(folder: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """What the first of these files that there is holds."""
    path = _one_of(folder, names)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({first_line(error)})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _channels(folder: Path, prepared: Any, name: str) -> tuple[float, ...]:
    """Three numbers of the processor's settings."""
    values = prepared.get(name) if isinstance(prepared, dict) else None
    if not isinstance(values, list) or len(values) != 3 or not all(isinstance(one, int | float) for one in values):
        raise CheckpointError(f"{folder}: expected three numbers as {name} of the image processor, got {values!r}")
    return tuple(float(one) for one in values)
