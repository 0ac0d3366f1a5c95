"""Masks to the tools where people correct them or train with them, and back."""
