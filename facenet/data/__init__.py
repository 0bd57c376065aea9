"""Labelled face images: sources, how batches are drawn from them, and what is done to an image before the network sees it."""

import lazy_loader

# A name is imported when it is used; __init__.pyi says from where.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
