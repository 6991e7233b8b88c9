"""Which weights an update changes, by how much, and at which learning rate."""
