"""Export: from predictions to a labelled dataset, the original bytes and keys kept."""
