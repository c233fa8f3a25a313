"""How what a checkpoint shows changes over checkpoints: sources, corpus, scan, store."""
