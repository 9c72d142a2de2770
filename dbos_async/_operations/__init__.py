"""What people ask and do who operate an application: counts, lists, one workflow as a conversation, and removing old ones."""
