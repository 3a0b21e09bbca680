"""What people decide about persons, and the values that follow from decisions and answers together."""
