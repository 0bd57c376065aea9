"""Runs in MLflow, and its only importer. What rank 0 says goes to a journal on disk first; the launcher sends it on."""

import lazy_loader

# A name is imported when it is used; __init__.pyi says from where.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
