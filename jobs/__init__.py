"""The subcommands of `shopframe`, one module each."""
