"""Who serves which blocks: uids, records, announcements and routes. Sans-IO."""
