"""Devices: which there are, in which precision they compute, and the one that a process trains on."""

import lazy_loader

# A name is imported when it is used; __init__.pyi says from where.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
