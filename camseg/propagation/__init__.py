"""(Image, Cam) -> Cam: a map spread over what looks alike, before any threshold."""
