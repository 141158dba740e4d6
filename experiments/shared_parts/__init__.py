"""What several experiments use: sizes of configs, and the numbers of the paper."""
