"""The detect stage: detection of persons, the region of interest, and crops."""
