__version__ = "0.1.0"
import os as _os

# OpenMP's idle threads wait in a busy loop, which starves them when another program runs. PyTorch
# reads this when it is first imported; a value that is already set stays.
_os.environ.setdefault("GOMP_SPINCOUNT", "10000")
