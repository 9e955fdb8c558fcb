"""Language models behind one face, and the distiller: tensors of any LLM."""
