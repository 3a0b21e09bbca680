"""What the shop did: occupancy, zones, queues and people, from the consolidated tables."""
