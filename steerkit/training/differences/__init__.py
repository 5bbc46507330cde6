"""What parts the better from the worse self, by token and layer: computed anew, or stored."""
