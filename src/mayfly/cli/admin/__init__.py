"""What only operators may do: one module for each noun."""
