__version__ = "0.1.0"
import os as _os
import sys as _sys
from importlib import import_module as _import
from types import ModuleType as _Module

# OpenMP's idle threads wait in a busy loop, which starves them when another program runs. PyTorch
# reads this when it is first imported; a value that is already set stays.
_os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# what `import tinyrope` offers, and methods of `Run` that later modules add: each imports its module when first used
_OFFERED = {"train": "train", "Run": "checkpoint", "generate": "generation"}
METHODS = {"generate": "generation", "curves": "tracking", "attention": "tracking"}


def __getattr__(name):
    "Import what the package offers when it is first asked for"
    if name not in _OFFERED: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _import(f".{_OFFERED[name]}", __name__)
    return module if name == _OFFERED[name] else getattr(module, name)


def __dir__(): return sorted({*globals(), *_OFFERED})


class _Train(_Module):
    "The module `tinyrope.train`, which can be called as its function `train`"
    def __call__(self, *args, **kwargs): return self.train(*args, **kwargs)


class _Package(_Module):
    "The package, in which `train` names a module and can be called"
    def __setattr__(self, name, value):
        if name == "train" and isinstance(value, _Module): value.__class__ = _Train
        super().__setattr__(name, value)


_sys.modules[__name__].__class__ = _Package
