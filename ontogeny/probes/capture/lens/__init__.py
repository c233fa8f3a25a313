"""TransformerLens: the same traces from a bridge's hooks or from an activation cache; nothing here imports it."""

from ontogeny.probes.capture.lens.bridge import as_bridge
from ontogeny.probes.capture.lens.cache import trace_of
from ontogeny.probes.capture.lens.recorder import LensRecorder

__all__ = ["LensRecorder", "as_bridge", "trace_of"]
