"""Measurements against peers and against the limits of the machine; `python -m bench run all`. Not part of the package."""
