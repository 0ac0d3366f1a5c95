"""``camseg methods``."""

from camseg.cli import console, options


def methods(json: options.Json = False) -> None:
    """List the CAM methods: what each needs, its cost in forward passes per image and view, and its paper."""
    from camseg.cams.methods.registry import METHODS, NATIVE

    if json:
        rows = [
            {"name": name, "needs": method.needs, "passes": method.passes, "paper": method.paper, "all": name in NATIVE}
            for name, method in METHODS.items()
        ]
        console.print_json(rows)
        return
    console.print_table(
        ("CAM method", "needs", "cost", "paper"),
        ((name, method.needs, method.passes, method.paper) for name, method in METHODS.items()),
        "Cost: forward passes per image and view, a backward pass through the whole network counted as two;\n"
        "C: channels of the layer, L: layers. Those that need grad-cam are not part of --method all.",
    )
