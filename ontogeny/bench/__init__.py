"""`ontogeny bench`: attention with its statistics, against what one would do instead, in time and in memory."""
