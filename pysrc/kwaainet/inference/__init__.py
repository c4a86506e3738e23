"""Running a Llama-family model over spans of blocks: graphs, sessions, tokens. Sans-IO."""
