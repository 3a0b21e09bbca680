"""The local annotator: a small model, such as SmolVLM, answers the attributes of a person from the crop."""
