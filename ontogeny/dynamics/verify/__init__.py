"""Published numbers, measured again by their own protocol, and the two side by side."""
