"""mtl: config-driven multi-task learning on language. Nothing in this module imports torch."""

__version__ = "0.1.0"
