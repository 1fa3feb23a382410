"""What camfast knows of a model: its inputs and outputs, its layers, and one pass that leaves no trace."""
