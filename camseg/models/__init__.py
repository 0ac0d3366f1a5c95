"""Names -> networks: timm's architectures and those of the papers, with weights from timm, from a file, or none."""
