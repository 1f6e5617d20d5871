"""Item vectors: from behaviour, from content, and the two joined."""
