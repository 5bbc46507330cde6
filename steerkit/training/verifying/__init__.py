"""Whether distilled weights do what was wanted, in numbers and in words."""
