"""Drawing of the demo's scenes."""
