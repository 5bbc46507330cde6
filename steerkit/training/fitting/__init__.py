"""The one loop that trains, and its settings: order, accumulation, processes, checkpoints."""
