"""The self-attention model: particles on the sphere that gather in clusters, and linger near several of them."""
