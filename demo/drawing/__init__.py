"""The pictures of the demo's scenes."""
