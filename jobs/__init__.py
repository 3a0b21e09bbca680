"""The jobs of the `shopframe` command, one module a subcommand."""
