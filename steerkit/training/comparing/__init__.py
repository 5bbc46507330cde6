"""Methods side by side, on the same data, under the same judges."""
