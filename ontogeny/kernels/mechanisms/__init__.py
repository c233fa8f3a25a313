"""Every attention mechanism, by name: how a row of scores becomes weights. A new one is a file and a line here."""

from ontogeny.kernels.mechanisms.entmax import ENTMAX15, SPARSEMAX
from ontogeny.kernels.mechanisms.mechanism import Mechanism, ScoredRows
from ontogeny.kernels.mechanisms.relu import RELU
from ontogeny.kernels.mechanisms.sigmoid import SIGMOID
from ontogeny.kernels.mechanisms.softmax import SOFTMAX
from ontogeny.kernels.mechanisms.softmax_sink import SOFTMAX_SINK

MECHANISMS: dict[str, Mechanism] = {
    mechanism.name: mechanism for mechanism in (SOFTMAX, SOFTMAX_SINK, SIGMOID, ENTMAX15, SPARSEMAX, RELU)
}

__all__ = ["MECHANISMS", "Mechanism", "ScoredRows"]
