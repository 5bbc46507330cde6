"""Train weights that do by themselves what an edit, an instruction or a preference does."""
