"""Train, compare and ship face-embedding networks: by commands, or from Python by the names that __init__.pyi lists."""

import lazy_loader

# A name is imported when it is used: `import facenet` alone takes milliseconds, and nothing of torch.
_imported, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version(__name__)
    return _imported(name)
