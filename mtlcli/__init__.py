"""mtl: config-driven multi-task learning on language. This module does not import torch."""

__version__ = "0.1.0"
