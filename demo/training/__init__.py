"""How the demo's models were trained, and how right they are."""
