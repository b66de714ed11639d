"""What is trained on what: for each kind of data its map, its objective, its samples and how they are judged."""
