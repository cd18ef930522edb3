"""Language models by folder, GGUF file or hub id; flow matching; the small models of the proofs."""
