"""The local annotator: SmolVLM answers the attributes of a person from the crop."""
