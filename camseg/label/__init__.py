"""The stages joined: image -> mask, one image or a folder."""
