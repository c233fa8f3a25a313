"""What massive activations and attention sinks do: the loss with and without them."""

from ontogeny.probes.ablation.experiment import AblationExperiment

__all__ = ["AblationExperiment"]
