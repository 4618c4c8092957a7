"""Labelled synthetic atlases of any size, written at constant memory."""

from sccagn_scale.simulate._simulate import simulate

__all__ = ["simulate"]
