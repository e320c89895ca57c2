"""What a person looks at: text with meanings, as much of it as a terminal shows, and in colour."""
