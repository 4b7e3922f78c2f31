"""mycontainer: a Linux container runtime that you build yourself, one kernel feature at a time."""

__version__ = "0.1.0"
