"""The command `retrieval`: one file per subcommand."""
