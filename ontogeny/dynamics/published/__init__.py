"""Measurements that others have published, as scans."""

from ontogeny.dynamics.published.pythia import load_pythia

__all__ = ["load_pythia"]
